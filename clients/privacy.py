"""Local differential privacy by Flower's own modifier: the broker gets a clipped and noisy copy of the model."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import ClientAppCallable

from fl_market.local_privacy import LocalPrivacy
from fl_market.parameters import StateDict, digest

KNOWN = "known-to-the-broker"
"""The record of the agent's state with what the broker knows of its model, where that is not the model itself."""


GIVEN = "given-away"
"""The record of the agent's state with the SHA-256 of the last copies that it gave away of the model that it holds."""
GIVEN_KEPT = 3


def given_away(context: Context) -> list[str]:
    """Return the SHA-256 of the last blurred copies of the agent's model, while it has bought nothing since."""
    record: Mapping[str, Any] = context.state.config_records.get(GIVEN, {})
    return list(record.get("digests", []))


def forget_given_away(context: Context) -> None:
    """Note that the agent holds another model now, of which nothing was given away."""
    context.state[GIVEN] = ConfigRecord({"digests": []})


def private_training(
    privacy_of: Callable[[Context], LocalPrivacy | None], initial_model: Callable[[Message, Context], StateDict]
) -> Callable[[Message, Context, ClientAppCallable], Message]:
    """Return a modifier of training messages that blurs the parameters of the reply where an agent wants it.

    Flower's modifier clips the update to the parameters that a message carries; the market's carry none, since agents
    keep their models. So the model that the broker knows already is added here, on the agent's side: the one that was
    given away last, or was delivered since. An update to anything else would have no bounded sensitivity.

    Parameters
    ----------
    privacy_of
        (context) to what the agent wants, None for parameters as they are.
    initial_model
        (message, context) to the model that the agent starts from, which tells nothing of its data.
    """

    def modifier(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        privacy = privacy_of(context)
        if privacy is None:
            return call_next(message, context)

        def unpredictable(message: Message, context: Context) -> Message:
            reply = call_next(message, context)
            # the modifier draws from numpy's global generator, which any code may have seeded with what all know
            np.random.seed(np.frombuffer(os.urandom(2496), dtype=np.uint32))  # noqa: NPY002
            return reply

        if not message.content.array_records:
            if KNOWN not in context.state:
                context.state[KNOWN] = ArrayRecord(dict(initial_model(message, context)))
            message.content[KNOWN] = context.state.array_records[KNOWN]
        blur = LocalDpMod(privacy.clipping_norm, privacy.sensitivity, privacy.epsilon, privacy.delta)
        reply = blur(message, context, unpredictable)
        if not reply.has_error():
            given = context.state[KNOWN] = next(iter(reply.content.array_records.values()))
            digests = [*given_away(context), digest(given.to_torch_state_dict())]
            context.state[GIVEN] = ConfigRecord({"digests": digests[-GIVEN_KEPT:]})
        return reply

    return modifier
