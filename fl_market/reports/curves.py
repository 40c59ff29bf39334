"""Learning curves as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl_market.reports.results import ArmResult

PICTURE = "learning_curves.png"
_STYLES = ("-", "--", ":", "-.")


def draw_learning_curves(arms: Mapping[str, ArmResult], path: Path) -> Path:
    """Draw test accuracy and test loss of every arm and agent by round, and return the picture's path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, loss = figure.subplots(1, 2)
    for color, (arm, result) in enumerate(arms.items()):
        for index, (name, agent) in enumerate(result.agents.items()):
            rounds = [entry.round for entry in agent.rounds]
            # later arms are drawn thinner: where two coincide, both stay visible
            width = max(1.0, 4.0 - 0.8 * color)
            style: dict[str, Any] = {
                "color": f"C{color}",
                "linestyle": _STYLES[index % len(_STYLES)],
                "linewidth": width,
            }
            style["label"] = f"{arm}, {name}"
            accuracy.plot(rounds, [100 * entry.test_accuracy for entry in agent.rounds], **style)
            loss.plot(rounds, [entry.test_loss for entry in agent.rounds], **style)
    for axes in (accuracy, loss):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy.set(xlabel="round", ylabel="test accuracy (%)")
    loss.set(xlabel="round", ylabel="test loss", yscale="log")
    loss.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)
    return path
