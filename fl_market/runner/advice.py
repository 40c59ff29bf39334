"""Advice before a run: options that the chosen arms ignore, and arms that exchange nothing."""

from collections.abc import Collection, Sequence

from fl_market.configuration import OPTIONS, Configuration
from fl_market.plugins import label
from strategies.arms import ARMS, arm_named, ignores


def advice(configuration: Configuration, arms: Sequence[str], given: Collection[str]) -> list[str]:
    """Return a line for each option without effect, and for each arm that exchanges no models.

    Parameters
    ----------
    configuration
        The options of the run.
    arms
        Names of the chosen arms.
    given
        Flat names of the options that the user gave.
    """
    chosen = {label(name): arm_named(name) for name in arms}
    lines = []
    for key in (name.replace("_", "-") for name in given):
        if all(ignores(arm, key) for arm in chosen.values()):
            users = ", ".join(name for name, arm in ARMS.items() if not ignores(arm, key))
            lines.append(f"--{OPTIONS[key][1].flags[0]} is ignored by {', '.join(chosen)} (used by {users})")
    rounds = configuration.run.num_server_rounds
    for name, arm in chosen.items():
        first = arm.exchanges_from(configuration)
        if first is not None and first > rounds:
            lines.append(f"{name} exchanges no models: its first round of trading is {first}, and the last is {rounds}")
    return lines
