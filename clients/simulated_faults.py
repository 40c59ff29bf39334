"""Simulated faults: agents that send the broker other parameters than they trained.

An agent has a fault only if its own operator says so, in a simulation for comparisons: the option
``faults`` is the agent's. Random labels are made in :mod:`clients.agent_data`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from clients.agent import Agent
from clients.local_updates import initial_model
from fl_market.parameters import StateDict
from fl_market.seeds import torch_generator

REVERSED = 4
"""Length of a reversed update: with one such agent in four, a plain average moves backwards."""


class Training(NamedTuple):
    """One local training of an agent with a fault.

    Attributes
    ----------
    agent
        The agent.
    market_round
        Number of the round.
    start, trained
        Its parameters before and after.
    """

    agent: Agent
    market_round: int
    start: StateDict
    trained: StateDict


def faulty_copies(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Modify a training step: the broker gets other parameters than the agent trained.

    As with local privacy, the agent keeps its exact model.
    """
    agent = Agent.at(context)
    send = COPIES.get(agent.options.agent.faults)
    if send is None:
        return call_next(message, context)
    config = message.content.config_records["config"]
    start = _start(agent, message)
    reply = call_next(message, context)
    if not reply.has_error():
        trained = agent.state.model
        sent = send(Training(agent, int(str(config["server-round"])), start, trained))
        reply.content["arrays"] = ArrayRecord({name: sent.get(name, tensor) for name, tensor in trained.items()})
        agent.state.give_away(reply.content.array_records["arrays"])
    return reply


def _start(agent: Agent, message: Message) -> StateDict:
    carried = next(iter(message.content.array_records.values()), None)
    if carried is not None:
        return carried.to_torch_state_dict()
    if agent.state.has_model:
        return agent.state.model
    common = message.content.config_records["config"].get("initialisation") == "common"
    return initial_model(agent, common=common).state_dict()


def _untrained(training: Training) -> dict[str, Tensor]:
    seed, name = training.agent.options.run.seed, f"untrained-{training.agent.name}"
    return dict(training.agent.data.task.initial_model(seed, name).state_dict())


def _noise(training: Training) -> dict[str, Tensor]:
    """Return parameters drawn at random, with the deviation of the trained ones."""
    seed, name = training.agent.options.run.seed, training.agent.name
    generator = torch_generator(seed, "noise", name, training.market_round)
    return {
        key: tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
        for key, tensor in _parameters(training).items()
    }


def _sign_flip(training: Training) -> dict[str, Tensor]:
    """Return the start minus several times the update."""
    flipped = {}
    for key, tensor in _parameters(training).items():
        start = training.start[key].to(tensor.dtype)  # some averages of Flower's are double
        flipped[key] = start - REVERSED * (tensor - start)
    return flipped


def _parameters(training: Training) -> dict[str, Tensor]:
    """Return the trained parameters; running statistics stay as they are, to be valid."""
    names = {name for name, _ in training.agent.data.task.build_model().named_parameters()}
    return {name: tensor for name, tensor in training.trained.items() if name in names}


COPIES: dict[str, Callable[[Training], dict[str, Tensor]]] = {
    "untrained": _untrained,
    "noise": _noise,
    "sign-flip": _sign_flip,
}
"""Fault -> function that returns the tensors that are sent in place of the trained ones."""
