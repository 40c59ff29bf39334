"""An agent's local computations on its own data: training, adaptive aggregation, and the test."""

from collections.abc import Sequence

import torch
from flwr.app import MetricRecord
from torch import nn

from clients.adaptive_aggregation import adapt
from clients.agent import Agent
from clients.agent_data import pooled
from clients.faults import named_faults
from clients.training import evaluate, make_optimiser, train
from fl_market.errors import MarketError
from fl_market.parameters import StateDict, load_parameters
from fl_market.seeds import reproducible


def initial_model(agent: Agent, *, common: bool) -> nn.Module:
    """Return an untrained model: the initialisation common to all agents, or the agent's own."""
    return agent.data.task.initial_model(agent.options.run.seed, None if common else agent.name)


def local_update(
    agent: Agent,
    market_round: int,
    *,
    common_start: bool = False,
    on_pooled_data: bool = False,
    proximal_mu: float = 0.0,
) -> tuple[int, float]:
    """Train the agent's model (the paper's local update); return samples and mean loss.

    Parameters
    ----------
    agent
        Its model and optimiser are read and replaced.
    market_round
        Number of the round; it names the random stream that shuffles the data.
    common_start
        An agent without a model starts from the initialisation that is common to all.
    on_pooled_data
        Train on the data of all agents, for a ceiling.
    proximal_mu
        Weight of FedProx' term; 0 for none.

    Raises
    ------
    MarketError
        If there are no data, those of all agents are asked for in a deployment, or the task's code
        raises; the message names the task.
    """
    options, data, hardware = agent.options, agent.data, agent.options.hardware
    task = data.task
    if on_pooled_data and not agent.simulated:
        raise MarketError("one model on all data is for simulations: an agent has no data but its own")
    training = pooled(options) if on_pooled_data else data.training
    with (
        named_faults(f"training on the task {task.name}"),
        reproducible(options.run.seed, "local-training", agent.index),
    ):
        model, optimiser = _resumed(agent, common_start)
        loss = train(
            model,
            optimiser,
            task.criterion,
            training,
            epochs=options.training.local_epochs,
            batch_size=agent.batch_size,
            seed=options.run.seed,
            purpose=("batches", agent.index, market_round),
            augment=task.augment,
            proximal_mu=proximal_mu,
            hardware=hardware,
        )
    agent.state.keep_training(model.state_dict(), optimiser.state_dict())
    return len(training[0]), loss


def _resumed(agent: Agent, common_start: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the agent's model on its device and its optimiser, as the last round left them."""
    options = agent.options
    if agent.state.has_model:
        model = agent.data.task.build_model()
        load_parameters(model, agent.state.model)
    else:
        model = initial_model(agent, common=common_start)
    model.to(options.hardware.device)
    optimiser = make_optimiser(
        model, options.training.optimiser, options.training.learning_rate, options.training.momentum
    )
    if (remembered := agent.state.optimiser) is not None:
        optimiser.load_state_dict(remembered)
    return model, optimiser


def adapt_to(agent: Agent, common: StateDict, market_round: int) -> None:
    """Adapt the global parameters to the agent by FedALA's weights, and keep the weights.

    Parameters
    ----------
    agent
        Its model and weights are read and replaced.
    common
        The global parameters.
    market_round
        Number of the round; it names the random stream that picks the data.

    Raises
    ------
    MarketError
        If the task's code raises; the message names the task.
    """
    options, data, hardware = agent.options, agent.data, agent.options.hardware
    with (
        named_faults(f"adaptive aggregation on the task {data.task.name}"),
        reproducible(options.run.seed, "adaptive-aggregation", agent.index),
    ):
        adapted, shares = adapt(
            data.task.build_model().to(hardware.device),
            data.task.criterion,
            agent.state.model,
            common,
            agent.state.shares,
            data.training,
            batch_size=agent.batch_size,
            seed=options.run.seed,
            purpose=("adaptive-data", agent.index, market_round),
            hardware=hardware,
        )
    agent.state.replace_model(adapted)
    agent.state.shares = shares


def evaluate_models(agent: Agent, states: Sequence[StateDict]) -> MetricRecord:
    """Return the test metrics of a model, or of several as an ensemble, by their names.

    Raises
    ------
    MarketError
        If the task's code raises; the message names the task.
    """
    data, hardware = agent.data, agent.options.hardware
    task = data.task
    with (
        named_faults(f"the test on the task {task.name}"),
        reproducible(agent.options.run.seed, "evaluation", agent.index),
    ):
        models = []
        for state in states:
            models.append(task.build_model().to(hardware.device))
            load_parameters(models[-1], state)
        loss, accuracy, on_targets = evaluate(models, task.criterion, task.test, data.class_weights, hardware)
    return MetricRecord(
        {
            "num-examples": len(task.test[0]),
            "test-loss": loss,
            "test-accuracy": accuracy,
            "target-accuracy": on_targets,
        }
    )
