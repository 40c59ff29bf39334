"""``fl-market experiment`` and ``fl-market bench``."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fl_market.choices import BENCH_PARTS
from fl_market.cli.arguments import add_debug, names, new_folder, seeds, whole
from fl_market.cli.runs import add_overhead
from fl_market.settings import DEVICES

if TYPE_CHECKING:
    from fl_market.cli.arguments import Commands

_TABLES = {
    "table1": "the arms on MNIST, CIFAR-10 and TinyImageNet",
    "table2": "trading some layers, or the best layers within a budget",
    "figure2": "test losses of the arms by round",
}
_STUDIES = {
    "scenarios": ("every arm, tuned alike, in ten situations", "scenarios"),
    "labels": ("accuracy of the arms by the number of the broker's labels", "numbers of fit samples"),
    "late": ("agents that meet after a long time apart", "networks"),
}
_FIGURES = {
    "figure3": "linear agents in the market compared with siloed ones",
    "figure4": "benefit of the market by the distance between the agents' tasks",
    "figure5": "prices compared with the truthful optimum",
    "theorem51": "rounds to convergence compared with the bound",
}


def add_experiments(commands: "Commands") -> None:
    """Add the paper's experiments, and the project's own comparisons."""
    parser = commands.add_parser(
        "experiment", help="repeat one of the paper's experiments, or compare the arms, over several seeds"
    )
    experiments = parser.add_subparsers(required=True, metavar="NAME", dest="name")
    for name, text in _TABLES.items():
        table = experiments.add_parser(name, help=text)
        _add_size(table, ("quick", "medium", "full"), "full is the published setup")
        if name == "table1":
            table.add_argument(
                "--data", type=names, default=[], metavar="SET,…", help="data sets, of mnist, cifar10 and tinyimagenet"
            )
        table.set_defaults(command=_table)
    for name, (text, parts) in _STUDIES.items():
        study = experiments.add_parser(name, help=text)
        _add_size(study, ("quick", "full"), "quick takes an hour on two cores or less")
        study.add_argument(
            "--only", type=names, default=[], metavar="NAME,…", help=f"{parts} to run, of those of the scale"
        )
        study.set_defaults(command=_study)
    for name, text in _FIGURES.items():
        figure = experiments.add_parser(name, help=text)
        _add_seeds(figure, ",".join(map(str, range(20))), "0,1,…,19")
        figure.add_argument("--out", metavar="DIR", help="folder for NAME.json and NAME.png; runs/… by default")
        figure.add_argument("--overwrite", action="store_true", help="replace an earlier result in --out")
        add_debug(figure)
        figure.set_defaults(command=_figure)


def add_bench(commands: "Commands") -> None:
    """Add the benchmarks."""
    parser = commands.add_parser("bench", help="measure speed relative to a reference, test recovery or certificates")
    benches = parser.add_subparsers(required=True, metavar="NAME")
    add_overhead(benches)
    align = benches.add_parser(
        "align", help="compare matching with rebasin and plain coordinate descent; about half an hour"
    )
    align.add_argument(
        "--data-dir", required=True, metavar="DIR", help="folder of MNIST and CIFAR-10 in torchvision's layout"
    )
    _add_bench_options(align, "align.json")
    align.set_defaults(command=_align)
    certificates = benches.add_parser(
        "certificates", help="measure how often certificates are false, missing or worthless; about an hour"
    )
    certificates.add_argument(
        "--data-dir", default="", metavar="DIR", help="folder of MNIST in torchvision's layout; the sample by default"
    )
    certificates.add_argument(
        "--runs", type=whole(1), default=1000, metavar="N", help="simulated runs of each seller (default: %(default)s)"
    )
    certificates.add_argument(
        "--parts",
        type=_bench_parts,
        default=BENCH_PARTS,
        metavar="PART,…",
        help=f"parts separated by commas (default: {','.join(BENCH_PARTS)})",
    )
    _add_bench_options(certificates, "certificates.json and certificates.png")
    certificates.set_defaults(command=_certificates)
    ledger = benches.add_parser("ledger", help="measure settled deals a second, and time and memory of verify")
    ledger.add_argument(
        "--deals", type=whole(1), default=100_000, metavar="N", help="deals of the ledger (default: %(default)s)"
    )
    ledger.add_argument(
        "--per-round", type=whole(2), default=100, metavar="N", help="deals of a round (default: %(default)s)"
    )
    _add_bench_output(ledger, "ledger.json")
    ledger.set_defaults(command=_ledger)
    scale = benches.add_parser(
        "scale", help="measure the broker's time by the number of agents, and what candidates cost; about 20 minutes"
    )
    scale.add_argument(
        "--agents",
        type=_whole_numbers,
        default=None,
        metavar="N,…",
        help="numbers of agents, separated by commas (default: 8,16,32,64,128)",
    )
    _add_seeds(scale, "0", "0")
    _add_bench_output(scale, "scale.json and scale.png")
    scale.set_defaults(command=_scale)
    memory = benches.add_parser(
        "memory", help="measure the broker's memory, with many agents and with large models; about 15 minutes"
    )
    memory.add_argument("--agents", type=whole(2), metavar="N", help="one market of N agents instead of four")
    memory.add_argument(
        "--parameters",
        type=whole(1000),
        default=10_000_000,
        metavar="N",
        help="parameters of its models, approximately (default: %(default)s)",
    )
    memory.add_argument(
        "--service", choices=("tune", "none"), default="tune", help="its service (default: %(default)s)"
    )
    _add_bench_output(memory, "memory.json")
    memory.set_defaults(command=_memory)
    incentives = benches.add_parser(
        "incentives", help="measure what dishonest behaviour earns under each pricing rule; about 20 minutes"
    )
    incentives.add_argument(
        "--runs",
        type=whole(2),
        default=10,
        metavar="N",
        help="markets of each kind (default: %(default)s)",
    )
    _add_bench_options(incentives, "incentives.json and incentives.png")
    incentives.set_defaults(command=_incentives)
    chaos = benches.add_parser(
        "chaos", help="kill processes of deployed markets at random; about an hour, or 10 minutes simulated"
    )
    chaos.add_argument("--kills", type=whole(1), default=50, metavar="N", help="number of kills (default: %(default)s)")
    chaos.add_argument(
        "--simulated",
        action="store_true",
        help="play thousands of small markets in process instead, on disks that lose what was not synchronised; "
        "--seed is that of the first market, and plays a failed one again",
    )
    chaos.add_argument(
        "--exchanges",
        type=whole(1),
        default=20_000,
        metavar="N",
        help="purchases of the simulated markets (default: %(default)s)",
    )
    _add_bench_options(chaos, "chaos.json, the deployment and its logs, or for chaos-simulated.json")
    chaos.set_defaults(command=_chaos)


def _add_size(parser: argparse.ArgumentParser, scales: Sequence[str], explanation: str) -> None:
    """Add the options of an experiment that consists of cells."""
    parser.add_argument("--scale", choices=scales, default="quick", help=f"size; {explanation} (default: %(default)s)")
    parser.add_argument(
        "--data-dir", required=True, metavar="DIR", help="folder of the data sets in torchvision's layout"
    )
    _add_seeds(parser, "0,1,2", "0,1,2")
    parser.add_argument(
        "--jobs",
        type=whole(0),
        default=0,
        metavar="N",
        help="parallel runs; 0 for one per processor (default: %(default)s)",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="device that computes the models (default: %(default)s)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder for the result; runs that are finished in it are not repeated"
    )
    parser.add_argument("--quiet", action="store_true", help="hide progress")
    add_debug(parser)


def _add_seeds(parser: argparse.ArgumentParser, default: str, shown: str) -> None:
    parser.add_argument(
        "--seeds", type=seeds, default=default, metavar="N,…", help=f"seeds separated by commas (default: {shown})"
    )


def _add_bench_options(parser: argparse.ArgumentParser, files: str) -> None:
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="seed of all random choices (default: %(default)s)"
    )
    _add_bench_output(parser, files)


def _add_bench_output(parser: argparse.ArgumentParser, files: str) -> None:
    parser.add_argument("--out", default="", metavar="DIR", help=f"folder for {files}; runs/… by default")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in --out")
    add_debug(parser)


def _whole_numbers(text: str) -> list[int]:
    return [whole(2)(part) for part in names(text)]


def _bench_parts(text: str) -> list[str]:
    found = names(text)
    if not set(found) <= set(BENCH_PARTS):
        raise argparse.ArgumentTypeError(f"must be some of {', '.join(BENCH_PARTS)}; got {text!r}")
    return found


def _figure(options: argparse.Namespace) -> int:
    from fl_market.experiments.linear_figures import run_experiment

    out_dir = options.out or new_folder(options.name)
    print(run_experiment(options.name, out_dir, options.seeds, overwrite=options.overwrite))
    for suffix in ("json", "png"):
        print(Path(out_dir) / f"{options.name}.{suffix}")
    return 0


def _table(options: argparse.Namespace) -> int:
    from fl_market.runner.environment import set_environment

    set_environment()
    from fl_market.experiments.network_tables import Plan, run_table

    plan = Plan(
        options.scale,
        str(Path(options.data_dir).absolute()),
        options.seeds,
        tuple(getattr(options, "data", ())),
        options.jobs,
        options.device,
    )
    out_dir = options.out or new_folder(f"{options.name}-{options.scale}")
    print(run_table(options.name, out_dir, plan, _reporter(options)))
    print(Path(out_dir) / f"{options.name}.json")
    return 0


def _study(options: argparse.Namespace) -> int:
    from fl_market.runner.environment import set_environment

    set_environment()
    from fl_market.experiments.studies import run_study
    from fl_market.experiments.tuning import Study

    study = Study(
        options.scale,
        str(Path(options.data_dir).absolute()),
        options.seeds,
        tuple(options.only),
        options.jobs,
        options.device,
    )
    out_dir = options.out or new_folder(f"{options.name}-{options.scale}")
    print(run_study(options.name, out_dir, study, _reporter(options)))
    for suffix in ("json", "png"):
        print(Path(out_dir) / f"{options.name}.{suffix}")
    return 0


def _reporter(options: argparse.Namespace) -> Callable[[str], None]:
    def report(line: str) -> None:
        if not options.quiet:
            _progress(line)

    return report


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _align(options: argparse.Namespace) -> int:
    from fl_market.benchmarks.align import align

    out_dir = options.out or new_folder("bench-align")
    print(align(options.data_dir, out_dir, seed=options.seed, overwrite=options.overwrite))
    print(Path(out_dir) / "align.json")
    return 0


def _certificates(options: argparse.Namespace) -> int:
    from fl_market.benchmarks.certificates import certificates

    out_dir = options.out or new_folder("bench-certificates")

    print(
        certificates(
            out_dir,
            parts=options.parts,
            data_dir=options.data_dir,
            runs=options.runs,
            seed=options.seed,
            overwrite=options.overwrite,
            report=_progress,
        )
    )
    for suffix in ("json", "png"):
        print(Path(out_dir) / f"certificates.{suffix}")
    return 0


def _incentives(options: argparse.Namespace) -> int:
    from fl_market.benchmarks.incentives import incentives

    out_dir = options.out or new_folder("bench-incentives")

    print(incentives(out_dir, runs=options.runs, seed=options.seed, overwrite=options.overwrite, report=_progress))
    for suffix in ("json", "png"):
        print(Path(out_dir) / f"incentives.{suffix}")
    return 0


def _ledger(options: argparse.Namespace) -> int:
    from fl_market.benchmarks.ledger import bench_ledger

    out_dir = options.out or new_folder("bench-ledger")
    print(bench_ledger(out_dir, deals=options.deals, a_round=options.per_round, overwrite=options.overwrite))
    print(Path(out_dir) / "ledger.json")
    return 0


def _scale(options: argparse.Namespace) -> int:
    from fl_market.runner.environment import set_environment

    set_environment()
    from fl_market.benchmarks.scale import SIZES, scale

    out_dir = options.out or new_folder("bench-scale")
    sizes = options.agents or SIZES
    print(scale(out_dir, sizes=sizes, seeds=options.seeds, overwrite=options.overwrite, report=_progress))
    for name in ("scale.json", "scale.png"):
        print(Path(out_dir) / name)
    return 0


def _memory(options: argparse.Namespace) -> int:
    from fl_market.benchmarks.memory import CASES, Case, memory

    out_dir, cases = options.out or new_folder("bench-memory"), CASES
    if options.agents is not None:
        cases = (Case(options.agents, options.parameters, service=options.service == "tune"),)
    print(memory(out_dir, cases=cases, overwrite=options.overwrite, report=_progress))
    print(Path(out_dir) / "memory.json")
    return 0


def _chaos(options: argparse.Namespace) -> int:
    out_dir = options.out or new_folder("bench-chaos")
    if options.simulated:
        from fl_market.benchmarks.simulated_chaos import simulated_chaos

        print(
            simulated_chaos(
                out_dir,
                exchanges=options.exchanges,
                seed=options.seed,
                overwrite=options.overwrite,
                report=_progress,
            )
        )
        print(Path(out_dir) / "chaos-simulated.json")
        return 0
    from fl_market.benchmarks.chaos import chaos

    # on SIGTERM, the benchmark must end the processes that it started
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(chaos(out_dir, kills=options.kills, seed=options.seed, overwrite=options.overwrite, report=_progress))
    print(Path(out_dir) / "chaos.json")
    return 0
