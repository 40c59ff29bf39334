"""One-line error replies for whatever an agent's code, task or files raise."""

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fl_market.errors import MarketError


def one_line(error: BaseException) -> str:
    """Return an exception's type and text on one line.

    Examples
    --------
    >>> one_line(ValueError("3  and   4"))
    'ValueError: 3 and 4'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


@contextmanager
def named_faults(step: str) -> Iterator[None]:
    """Turn any exception inside the block into one sentence that names the step.

    Raises
    ------
    MarketError
        For any other exception; one that is a sentence already passes as it is.
    """
    try:
        yield
    except MarketError:
        raise
    except Exception as error:  # an operator's task, data or plug-in may raise anything
        raise MarketError(f"{step} failed: {one_line(error)}") from error


def one_sentence_faults(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Modify an app: each error reply ends with one sentence, the line that a broker logs."""
    with named_faults(message.metadata.message_type):
        return call_next(message, context)
