"""Pictures: the learning curves of a comparison."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_market.reports.results import ArmResult
from fl_market.reports.summary import MANY, spread
from fl_market.run_folder import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE = "learning_curves.png"
_STYLES = ("-", "--", ":", "-.")


def draw_learning_curves(arms: Mapping[str, ArmResult], path: Path) -> Path:
    """Draw test accuracy and loss of every arm and agent by round; return the picture's path."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(11, 4.5)
    accuracy, loss = figure.subplots(1, 2)
    for color, (arm, result) in enumerate(arms.items()):
        # later arms are drawn thinner: where two coincide, both stay visible
        width = max(1.0, 4.0 - 0.8 * color)
        if len(result.agents) >= MANY:
            _draw_spread(accuracy, result, "test_accuracy", 100, f"C{color}", arm)
            _draw_spread(loss, result, "test_loss", 1, f"C{color}", f"{arm}: median, quartiles, worst and best")
            continue
        for index, (name, agent) in enumerate(result.agents.items()):
            rounds = [entry.round for entry in agent.rounds]
            style: dict[str, Any] = {
                "color": f"C{color}",
                "linestyle": _STYLES[index % len(_STYLES)],
                "linewidth": width,
                "marker": _marker(rounds),
                "label": f"{arm}, {name}",
            }
            accuracy.plot(rounds, [100 * entry.test_accuracy for entry in agent.rounds], **style)
            loss.plot(rounds, [entry.test_loss for entry in agent.rounds], **style)
    for axes in (accuracy, loss):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy.set(xlabel="round", ylabel="test accuracy (%)")
    loss.set(xlabel="round", ylabel="test loss", yscale="log")
    if loss.lines:
        loss.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save_figure(figure, path)


def _draw_spread(axes: "Axes", result: ArmResult, metric: str, factor: float, color: str, label: str) -> None:
    """Draw the median of many agents, and around it their quartiles, and the worst and best."""
    by_round: dict[int, list[float]] = {}
    for agent in result.agents.values():
        for entry in agent.rounds:
            by_round.setdefault(entry.round, []).append(factor * getattr(entry, metric))
    if not by_round:
        return
    rounds = sorted(by_round)
    _, least, lower, middle, upper, greatest = zip(*(spread(by_round[number]) for number in rounds), strict=True)
    axes.plot(rounds, middle, color=color, linewidth=2, marker=_marker(rounds), label=label)
    for bottom, top, alpha, width in ((lower, upper, 0.3, 8), (least, greatest, 0.1, 3)):
        if len(rounds) > 1:
            axes.fill_between(rounds, bottom, top, color=color, alpha=alpha, linewidth=0)
        else:
            axes.vlines(rounds, bottom, top, color=color, alpha=alpha, linewidth=width)


def _marker(rounds: Sequence[int]) -> str | None:
    """Return a dot for a single test, of which a line shows nothing."""
    return "o" if len(rounds) == 1 else None


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches, independent of any display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises
    ------
    MarketError
        If it cannot be written.
    """
    picture = BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    return write_file(path, picture.getvalue())
