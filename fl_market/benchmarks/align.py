"""``fl-market bench align``: matching compared with rebasin and plain coordinate descent.

The searches alternate in one process, on networks trained here, with the same number of threads.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fl_market.benchmarks.trained_networks import flip_and_roll, mlp, trained
from fl_market.data import Batch
from fl_market.errors import MarketError
from fl_market.gains import ModelLoss
from fl_market.merging import NormStatistics, interpolate
from fl_market.parameters import StateDict
from fl_market.permutation import (
    PermutationSpec,
    apply_permutation,
    derive_spec,
    identity_permutation,
    match,
)
from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json
from fl_market.seeds import numpy_generator
from fl_market.tasks.cifar10 import prepared as prepared_cifar10
from fl_market.tasks.cifar10 import read_cifar10
from fl_market.tasks.mnist import prepared as prepared_mnist
from fl_market.tasks.mnist import read_mnist
from fl_market.tasks.resnet import ResNet


@dataclass(frozen=True)
class Sizes:
    """Sizes of the benchmark.

    Attributes
    ----------
    mlps
        Number of perceptrons; every two of them are a pair.
    mnist, mnist_epochs
        Training images of the perceptrons, and epochs.
    cifar10, cifar10_epochs
        The same for the two residual networks.
    widen, wide_images
        Width of the wide networks, and their training images for one epoch.
    test
        Test images.
    repetitions
        Number of timings of each search if there is only one pair.
    """

    mlps: int = 4
    mnist: int = 20_000
    mnist_epochs: int = 5
    cifar10: int = 20_000
    cifar10_epochs: int = 10
    widen: int = 6
    wide_images: int = 640
    test: int = 2_000
    repetitions: int = 5


@dataclass
class Comparison:
    """Seconds and barriers of two searches."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    barriers: dict[str, list[float]] = field(default_factory=dict)

    def note(self, side: str, seconds: float, barrier: float | None = None) -> None:
        """Add one run of a search."""
        self.seconds.setdefault(side, []).append(seconds)
        if barrier is not None:
            self.barriers.setdefault(side, []).append(barrier)

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each search."""
        return {side: median(seconds) for side, seconds in self.seconds.items()}

    def ratio(self, slow: str) -> float:
        """Return the median seconds of a slower search divided by those of ``match``."""
        medians = self.medians()
        return medians[slow] / medians["match"]


def align(data_dir: str, out_dir: str, *, seed: int = 0, overwrite: bool = False, sizes: Sizes | None = None) -> str:
    """Measure matching, and the repair of BatchNorm; write ``align.json``.

    Parameters
    ----------
    data_dir
        Folder with MNIST and CIFAR-10 in torchvision's layout.
    out_dir
        Folder of ``align.json``.
    seed
        Decides the networks' initial weights, the order of their data, and each search.
    overwrite
        Whether an earlier file may be overwritten.
    sizes
        Sizes of the benchmark; the defaults take about half an hour.

    Returns
    -------
    str
        A table of medians, ratios and barriers.

    Raises
    ------
    MarketError
        If rebasin or the data is missing, or the file exists and may not be overwritten.
    """
    sizes = sizes or Sizes()
    _rebasin()
    mnist = _prepared(read_mnist(Path(data_dir)), prepared_mnist)
    cifar10 = _prepared(read_cifar10(Path(data_dir)), prepared_cifar10)
    folder = claim_file(Path(out_dir), "align.json", overwrite)
    nets = _trained_resnets(cifar10[0], sizes, seed)
    parts = {
        "MLP": _compare_mlps(mnist, sizes, seed),
        "ResNet20": _compare_resnets(nets, cifar10, sizes, seed),
        "wide net": _compare_wide(cifar10[0], sizes, seed),
    }
    accuracies = _repaired_accuracies(nets, cifar10, sizes, seed)
    ratios = _ratios(parts, accuracies)
    write_json(
        folder / "align.json",
        {
            "threads": torch.get_num_threads(),
            "seconds": {name: part.seconds for name, part in parts.items()},
            "barrier": {name: part.barriers for name, part in parts.items() if part.barriers},
            "accuracy": accuracies,
            **ratios,
        },
    )
    return "\n".join([_searches_table(parts), _ratios_table(ratios, accuracies)])


def _ratios(parts: Mapping[str, Comparison], accuracies: Mapping[str, float]) -> dict[str, float]:
    return {
        "rebasin / match, MLP": parts["MLP"].ratio("rebasin"),
        "rebasin / match, ResNet20": parts["ResNet20"].ratio("rebasin"),
        "plain coordinate descent / match, wide net": parts["wide net"].ratio("plain coordinate descent"),
        "points gained by repair": 100 * (accuracies["repaired"] - accuracies["unrepaired"]),
    }


def _trained_resnets(train: Batch, sizes: Sizes, seed: int) -> list[nn.Module]:
    images, epochs = _first(train, sizes.cifar10), sizes.cifar10_epochs
    return [
        trained(ResNet, images, epochs, seed, index, learning_rate=0.2, augment=flip_and_roll) for index in range(2)
    ]


def _compare_mlps(mnist: tuple[Batch, Batch], sizes: Sizes, seed: int) -> Comparison:
    train = _first(mnist[0], sizes.mnist)
    nets = [trained(mlp, train, sizes.mnist_epochs, seed, index) for index in range(sizes.mlps)]
    result = Comparison()
    for one, other in combinations(nets, 2):
        _compare_pair(result, one, other, _first(mnist[1], sizes.test), None, seed)
    return result


def _compare_resnets(nets: Sequence[nn.Module], cifar10: tuple[Batch, Batch], sizes: Sizes, seed: int) -> Comparison:
    statistics = NormStatistics(nets[0], cifar10[0][0][: sizes.test])
    result = Comparison()
    for _ in range(sizes.repetitions):
        _compare_pair(result, nets[0], nets[1], _first(cifar10[1], sizes.test), statistics, seed)
    return result


def _compare_pair(
    result: Comparison, one: nn.Module, other: nn.Module, test: Batch, statistics: NormStatistics | None, seed: int
) -> None:
    """Match a pair by both searches, and record the time and the barrier of each.

    The barrier is the loss at α = ½ minus the mean loss of the two ends.

    BatchNorm statistics are recomputed for both, because rebasin resets them.
    """
    spec = derive_spec(one, test[0][:2])
    loss = ModelLoss(one, nn.CrossEntropyLoss(reduction="none"))

    def mean_loss(state: StateDict) -> float:
        with torch.no_grad():
            return float(loss(statistics.recompute(state) if statistics else state, test).mean())

    ends = (mean_loss(one.state_dict()) + mean_loss(other.state_dict())) / 2

    def barrier(aligned: StateDict) -> float:
        return mean_loss(interpolate(one.state_dict(), aligned, 0.5)) - ends

    started = perf_counter()
    permutation = match(spec, one, other, seed=seed)
    seconds = perf_counter() - started
    result.note("match", seconds, barrier(apply_permutation(spec, permutation, other)))

    permuted = deepcopy(other)
    search = _rebasin()(one, permuted, test[0][:2])
    started = perf_counter()
    search.rebasin()
    seconds = perf_counter() - started
    result.note("rebasin", seconds, barrier(permuted.state_dict()))


def _compare_wide(train: Batch, sizes: Sizes, seed: int) -> Comparison:
    """Compare with plain coordinate descent on two wide networks after a few training steps."""
    build = partial(ResNet, widen=sizes.widen, norm="layer")
    images = _first(train, sizes.wide_images)
    one, other = (trained(build, images, 1, seed, index, learning_rate=0.05) for index in range(2))
    spec = derive_spec(one, train[0][:2])
    result = Comparison()
    for _ in range(sizes.repetitions):
        for side, search in (("match", match), ("plain coordinate descent", plain_coordinate_descent)):
            started = perf_counter()
            search(spec, one.state_dict(), other.state_dict(), seed=seed)
            result.note(side, perf_counter() - started)
    return result


def plain_coordinate_descent(
    spec: PermutationSpec, reference: StateDict, other: StateDict, *, seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Return a permutation by the published algorithm (Ainsworth et al., algorithm 1), unoptimised.

    It starts from the identity and sweeps over the groups in random order until a sweep changes
    nothing. Each sweep computes every similarity and solves every group.
    """
    permutation = identity_permutation(spec)
    generator = numpy_generator(seed, "match")
    changed = True
    while changed:
        changed = False
        for name in generator.permutation(list(spec.groups)).tolist():
            group = spec.groups[name]
            aligned = apply_permutation(spec, permutation, other)
            similarity = np.zeros((group.size, group.size))
            for use in group.uses:
                left, right = (
                    state[use.tensor]
                    .index_select(use.axis, torch.from_numpy(use.positions.reshape(-1)))
                    .movedim(use.axis, 0)
                    .reshape(group.size, -1)
                    for state in (reference, aligned)
                )
                similarity += (left @ right.T).numpy()
            order = linear_sum_assignment(similarity, maximize=True)[1]
            gain = similarity[np.arange(group.size), order].sum() - similarity.trace()
            if gain > 1e-6 * abs(similarity.trace()):
                permutation[name] = permutation[name][order]
                changed = True
    return permutation


def _repaired_accuracies(
    nets: Sequence[nn.Module], cifar10: tuple[Batch, Batch], sizes: Sizes, seed: int
) -> dict[str, float]:
    """Return the accuracies of both ends and of the midpoint, without and with repair.

    The networks are matched by activations.
    """
    inputs, test = cifar10[0][0][: sizes.test], _first(cifar10[1], sizes.test)
    spec = derive_spec(nets[0], inputs[:2])
    permutation = match(spec, *nets, method="activations", batches=inputs.split(250), seed=seed)  # type: ignore[no-untyped-call]
    middle = interpolate(nets[0].state_dict(), apply_permutation(spec, permutation, nets[1]), 0.5)
    states: dict[str, StateDict] = {
        "first": nets[0].state_dict(),
        "second": nets[1].state_dict(),
        "unrepaired": middle,
        "repaired": NormStatistics(nets[0], inputs).recompute(middle),
    }
    right = ModelLoss(nets[0], _Right())
    with torch.no_grad():
        return {name: float(right(state, test).mean()) for name, state in states.items()}


class _Right(nn.Module):
    """1 for each sample that is classified correctly."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float()


def _prepared(parts: tuple[Batch, Batch], prepare: Callable[[Tensor], Tensor]) -> tuple[Batch, Batch]:
    (train, train_labels), (test, test_labels) = parts
    return (prepare(train), train_labels), (prepare(test), test_labels)


def _first(data: Batch, count: int) -> Batch:
    return tuple(part[:count] for part in data)


def _rebasin() -> Callable[..., Any]:
    try:
        from rebasin import PermutationCoordinateDescent
    except ImportError as error:
        raise MarketError(
            "bench align compares with the package rebasin 0.0.47; "
            "pip install -c constraints.txt -e '.[bench]' installs it"
        ) from error
    search: Callable[..., Any] = PermutationCoordinateDescent
    return search


def _searches_table(parts: Mapping[str, Comparison]) -> str:
    rows = [
        (name, side, f"{seconds:.3f}", f"{median(part.barriers[side]):.4f}" if side in part.barriers else "")
        for name, part in parts.items()
        for side, seconds in part.medians().items()
    ]
    title = f"Medians of searches, {torch.get_num_threads()} threads each"
    return summary_table(title, ("network", "search", "seconds", "barrier"), rows)


def _ratios_table(ratios: Mapping[str, float], accuracies: Mapping[str, float]) -> str:
    rows = [(name, f"{value:.1f}") for name, value in ratios.items()]
    rows += [(f"accuracy (%), {name}", f"{100 * value:.1f}") for name, value in accuracies.items()]
    return summary_table("Ratios, and ResNet20 with BatchNorm at α = ½", ("", ""), rows)
