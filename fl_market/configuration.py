"""The options of a run in nested groups, for the command line and Flower's run configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from fl_market.errors import MarketError, OptionError
from fl_market.market.terms import Terms
from fl_market.naming import agent_name
from fl_market.options import Option, options_of
from fl_market.settings import (
    PUBLISHED_FIRST_ROUND,
    AgentSettings,
    RunSettings,
    TaskSettings,
    TrainingSettings,
    by_agent,
)
from fl_market.simulation import is_simulated

if TYPE_CHECKING:  # the command line reads the declarations, and must not import torch
    from fl_market.hardware import Hardware
    from fl_market.tasks import Task
    from fl_market.tasks.task import Party

__all__ = ["PRIVATE_OPTIONS", "PUBLISHED_FIRST_ROUND", "TRAINING_OPTIONS", "Configuration", "agent_number"]

BROKER_PLUGINS = ("strategy", "merge", "alignment")
"""Plug-ins that only the broker uses: an agent's machine need not have their files."""


@dataclass(frozen=True)
class Configuration:
    """All options of a run, in the groups that declare them.

    Flower's run configuration is flat: its keys are the options' names with hyphens.

    Examples
    --------
    >>> configuration = Configuration.of(seed=3, learning_rate=0.1)
    >>> configuration.training.learning_rate, configuration.to_mapping()["learning-rate"]
    (0.1, 0.1)
    """

    run: RunSettings = field(default_factory=RunSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    market: Terms = field(default_factory=Terms)
    agent: AgentSettings = field(default_factory=AgentSettings)

    def __post_init__(self) -> None:
        if self.agent.labels and self.run.common_init:
            raise OptionError("common-init must be false with labels: different label spaces have no common model")
        by_level = isinstance(self.agent.valuation, str) and self.agent.valuation.startswith(("points(", "curve("))
        if by_level and self.market.certificate == "published":
            raise OptionError(
                "certificate must be run or trial with a valuation by levels, which published gains do not tell; "
                "got 'published'"
            )
        joins = [int(part) for part in by_agent(self.run.joins)[: self.run.agents]]
        if max(joins) > self.run.num_server_rounds or min(joins) > 1:
            raise OptionError(
                f"joins must be rounds up to num-server-rounds, {self.run.num_server_rounds}, and 1 for some agent; "
                f"got {self.run.joins!r}"
            )

    @classmethod
    def of(cls, **flat: Any) -> Self:
        """Return a configuration with the given options, by their keys with underscores.

        Raises
        ------
        OptionError
            If an option is unknown, or its value is invalid.
        """
        return cls().with_options(**flat)

    def with_options(self, **flat: Any) -> Self:
        """Return this configuration with some options changed, by their keys with underscores.

        Raises
        ------
        OptionError
            If an option is unknown, or its value is invalid.
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            group, declared = _declaration(name.replace("_", "-"))
            changes.setdefault(group, {})[declared.name] = value
        groups = {group: replace(getattr(self, group), **values) for group, values in changes.items()}
        return replace(self, **groups)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Self:
        """Return the configuration that a flat run configuration such as Flower's describes.

        Raises
        ------
        OptionError
            If an option is unknown, or its value is of the wrong type or out of range.
        """
        converted = {name: _declaration(name)[1].convert(value) for name, value in options.items()}
        return cls.of(**{name.replace("-", "_"): value for name, value in converted.items()})

    def to_mapping(self) -> dict[str, bool | int | float | str]:
        """Return the options as Flower's run configuration takes them.

        Raises
        ------
        OptionError
            If a plug-in was given as an object: other processes receive text only.
        """
        flat = {key: getattr(getattr(self, group), declared.name) for key, (group, declared) in OPTIONS.items()}
        for key, value in flat.items():
            if not isinstance(value, bool | int | float | str):
                raise OptionError(f"{key} must be text, to be sent to other processes; got {value!r}")
        return flat

    def changed(self, other: "Configuration") -> dict[str, Any]:
        """Return key -> the other configuration's value, for the options that differ."""
        own = self.to_mapping()
        return {key: value for key, value in other.to_mapping().items() if value != own[key]}

    def check_resumable(self, given: "Configuration") -> None:
        """Raise OptionError if a run with these options must not be resumed with the given ones.

        Only the number of rounds, the folder, timeouts and the number of checkpoints may change.
        """
        for key, value in self.changed(given).items():
            if not OPTIONS[key][1].changeable:
                raise OptionError(
                    f"{key} must be {self.to_mapping()[key]!r}; got {value!r} (a resumed run keeps its options)"
                )

    @staticmethod
    def of_node(run: Mapping[str, Any], node: Mapping[str, Any]) -> "Configuration":
        """Return the options of the agent at a node.

        Parameters
        ----------
        run
            The run's options, set by the broker's operator. An agent's private options are taken
            from them only in a simulation: see :mod:`fl_market.simulation`.
        node
            The node configuration: ``partition-id`` is the agent's number.

        Raises
        ------
        MarketError
            If the node has no number, or sets an option that is not its own.
        """
        index = agent_number(node)
        accepted = (*PRIVATE_OPTIONS, *TRAINING_OPTIONS)
        own = {name: value for name, value in node.items() if name not in ("partition-id", "num-partitions")}
        if unknown := sorted(set(own) - set(accepted)):
            raise OptionError(
                f"unknown option {unknown[0]!r} of a node configuration; known are partition-id, {', '.join(accepted)}"
            )
        simulated = is_simulated(node)
        common = {name: value for name, value in run.items() if simulated or name not in PRIVATE_OPTIONS}
        options = {name: value for name, value in {**common, **own}.items() if name not in BROKER_PLUGINS}
        if not options.get("learn-prior"):
            options.pop("pricing", None)  # only a seller that learns from prices needs to know the rule
        return _of_agent(index, tuple((name, type(value), value) for name, value in options.items()))

    def of_agent(self, index: int) -> Self:
        """Return the options of one agent: its part of the profiles, label spaces and faults."""
        agent = self.agent
        parts = {"profile": agent.profile, "labels": agent.labels, "faults": agent.faults}
        return self.with_options(**{key: _part(text, index) for key, text in parts.items()})

    @property
    def joins(self) -> dict[str, int]:
        """Agent -> round in which it joins the run."""
        return {agent_name(index): int(_part(self.run.joins, index)) for index in range(self.run.agents)}

    @property
    def honest_agents(self) -> tuple[str, ...]:
        """Names of the agents without a simulated fault, and without the seller of a placebo."""
        honest = self.run.agents - (self.run.strategy == "market-placebo")
        return tuple(agent_name(index) for index in range(honest) if _part(self.agent.faults, index) == "none")

    @property
    def label_set(self) -> tuple[int, ...]:
        """The agent's label space in ascending order; empty for all classes."""
        return self.agent.label_set

    @property
    def hardware(self) -> "Hardware":
        """The device and the precision on this machine.

        Raises
        ------
        MarketError
            If the machine lacks the device.
        """
        from fl_market.hardware import find_hardware

        return find_hardware(self.training.device, self.training.precision)

    def tests_in(self, market_round: int) -> bool:
        """Return whether agents test their models in a round."""
        return market_round % self.run.test_every == 0 or market_round == self.run.num_server_rounds

    @property
    def trading_starts(self) -> int:
        """First round in which the market trades."""
        return self.run.trading_starts

    def load_task(self, party: "Party" = None) -> "Task":
        """Return the task with the data of one party.

        Parameters
        ----------
        party
            The number of an agent, or ``"broker"``; None for the data of all.

        Raises
        ------
        MarketError
            If the data cannot be read, or the task's model lacks the layers to trade.
        """
        from fl_market.merging.layers import ALL, select_layers
        from fl_market.tasks import TaskOptions, load_task

        shared = {each.name: getattr(self.task, each.name) for each in fields(TaskSettings)}
        run, augment = self.run, self.training.augment
        options = TaskOptions(**shared, agents=run.agents, seed=run.seed, augment=augment, party=party)
        task = load_task(self.task.name, options)
        if self.market.layers != ALL:
            select_layers(task.template, self.market.layers)
        return task


GROUPS: dict[str, type] = {
    "run": RunSettings,
    "task": TaskSettings,
    "training": TrainingSettings,
    "market": Terms,
    "agent": AgentSettings,
}
"""Attribute of :class:`Configuration` -> the dataclass that declares its options."""
OPTIONS: dict[str, tuple[str, Option]] = {
    declared.key: (name, declared) for name, group in GROUPS.items() for declared in options_of(group)
}
"""Key -> the group's name and the declaration."""
PRIVATE_OPTIONS = tuple(key for key, (_, declared) in OPTIONS.items() if declared.owner == "agent")
"""Private options of an agent: in a deployment, only its own node configuration sets them."""
TRAINING_OPTIONS = tuple(key for key, (_, declared) in OPTIONS.items() if declared.owner == "both")
"""Options of a run that an agent may override for itself."""


def agent_number(node: Mapping[str, Any]) -> int:
    """Return the agent's number in a node configuration.

    Raises
    ------
    MarketError
        If the number is missing or invalid.
    """
    index = node.get("partition-id")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise MarketError("the node configuration lacks partition-id, the number of the agent: 0, 1, …")
    return index


@lru_cache(maxsize=1024)  # an agent reads its options anew for each message
def _of_agent(index: int, options: tuple[tuple[str, type, Any], ...]) -> Configuration:
    """Return one agent's options; the types are there because 1, 1.0 and True are equal keys."""
    return Configuration.from_mapping({name: value for name, _, value in options}).of_agent(index)


def _part(text: str, index: int) -> str:
    """Return one agent's part of a text."""
    parts = by_agent(text)
    return parts[index % len(parts)]


def _declaration(key: str) -> tuple[str, Option]:
    if key not in OPTIONS:
        raise OptionError(f"unknown option {key!r}; known are {', '.join(sorted(OPTIONS))}")
    return OPTIONS[key]
