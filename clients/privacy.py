"""Local differential privacy by Flower's own modifier: the broker gets a clipped and noisy copy of the model."""

import os
from collections.abc import Callable

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import ClientAppCallable

from fl_market.local_privacy import LocalPrivacy
from fl_market.parameters import StateDict


def private_training(
    privacy_of: Callable[[Context], LocalPrivacy | None], model_of: Callable[[Message, Context], StateDict]
) -> Callable[[Message, Context, ClientAppCallable], Message]:
    """Return a modifier of training messages that blurs the parameters of the reply where an agent wants it.

    Flower's modifier clips the update to the parameters that a message carries; the market's carry none, since agents
    keep their models. So they are added here, on the agent's side.

    Parameters
    ----------
    privacy_of
        (context) to what the agent wants, None for parameters as they are.
    model_of
        (message, context) to the model that the agent will train.
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
            message.content["arrays"] = ArrayRecord(dict(model_of(message, context)))
        blur = LocalDpMod(privacy.clipping_norm, privacy.sensitivity, privacy.epsilon, privacy.delta)
        return blur(message, context, unpredictable)

    return modifier
