"""Local differential privacy: Flower's modifier clips the update and adds Gaussian noise."""

import os

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import ClientAppCallable

from clients.agent import Agent
from clients.agent_state import KNOWN
from clients.local_updates import initial_model
from fl_market.local_privacy import parse_local_privacy


def private_training(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Modify a training step: the broker gets a clipped and noisy copy if the agent wants privacy.

    Flower's modifier clips the update relative to the parameters that the message carries. The
    market's messages carry none, since agents keep their models. The parameters that the broker
    knows already are therefore added here, on the agent's side: those given away last, or delivered
    since. An update relative to any others would have no bounded sensitivity. Before the first
    round the broker knows the initialisation, which says nothing of the agent's data.
    """
    agent = Agent.at(context)
    privacy = parse_local_privacy(agent.options.agent.local_privacy)
    if privacy is None:
        return call_next(message, context)

    def unpredictable(message: Message, context: Context) -> Message:
        reply = call_next(message, context)
        # the modifier draws from numpy's global generator, which may have a seed that is public
        np.random.seed(np.frombuffer(os.urandom(2496), dtype=np.uint32))  # noqa: NPY002
        return reply

    if not message.content.array_records:
        known = agent.state.known_to_broker
        if known is None:
            common = message.content.config_records["config"].get("initialisation") == "common"
            known = ArrayRecord(dict(initial_model(agent, common=common).state_dict()))
            agent.state.known_to_broker = known
        message.content[KNOWN] = known
    modifier = LocalDpMod(privacy.clipping_norm, privacy.sensitivity, privacy.epsilon, privacy.delta)
    reply = modifier(message, context, unpredictable)
    if not reply.has_error():
        agent.state.give_away(next(iter(reply.content.array_records.values())))
    return reply
