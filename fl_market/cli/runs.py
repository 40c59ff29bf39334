"""``fl-market run``, ``fl-market compare`` and ``fl-market bench overhead``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_market.catalogue import ARM, PRICING_RULE
from fl_market.cli.arguments import add_debug, add_options, brief, explained, given_options, names, new_folder, seeds
from fl_market.configuration import Configuration
from fl_market.errors import OptionError
from fl_market.runner.environment import set_environment

if TYPE_CHECKING:
    from fl_market.cli.arguments import Commands
    from fl_market.runner.engines import Engine
    from fl_market.runner.estimate import Estimate

_DEFAULT_ARMS = "siloed,fedavg,market,market-priced"
WORTH_TELLING = 30.0
"""Seconds from which on a comparison says how long it will take."""


def add_runs(commands: "Commands") -> None:
    """Add the commands that run one arm or several."""
    run = commands.add_parser("run", help="run one arm")
    _add_run_options(run, "simulation")
    run.set_defaults(command=_run)

    compare = commands.add_parser("compare", help="run several arms on the same data, seeds and rounds")
    compare.add_argument(
        "--arms",
        type=names,
        default=_DEFAULT_ARMS,
        metavar="ARM,…",
        help=f"arms separated by commas: {brief(ARM)} (default: %(default)s)",
    )
    compare.add_argument(
        "--seeds",
        type=seeds,
        default=[],
        metavar="N,…",
        help="seeds separated by commas: run the comparison for each in its own folder, and summarise",
    )
    _add_run_options(compare, "inline", without=("strategy",))
    compare.set_defaults(command=_compare)


def add_overhead(benches: "Commands") -> None:
    """Add the benchmark that has the options of a run."""
    overhead = benches.add_parser("overhead", help="wall time of a market relative to FedAvg's")
    _add_run_options(overhead, "inline", without=("strategy",))
    overhead.set_defaults(command=_bench_overhead)


def _add_run_options(parser: argparse.ArgumentParser, engine: str, without: Sequence[str] = ()) -> None:
    parser.add_argument(
        "--engine",
        choices=("simulation", "inline"),
        default=engine,
        help="simulation runs Flower's simulation over Ray; inline runs in this process (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in --out")
    parser.add_argument("--quiet", action="store_true", help="hide progress")
    parser.add_argument("--verbose", action="store_true", help="show the logs of Flower and Ray")
    add_debug(parser)
    add_options(parser, without)
    parser.usage = "%(prog)s [options]"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = explained(ARM, PRICING_RULE)


def _run(options: argparse.Namespace) -> int:
    set_environment()
    given = given_options(options)
    if "resume" in given:
        return _resume(options, given)
    configuration = _configuration(given, "run")
    return _compared(options, configuration, [configuration.run.strategy], given)


def _compare(options: argparse.Namespace) -> int:
    set_environment()
    given = given_options(options)
    return _compared(options, _configuration(given, "compare"), options.arms, given)


def _configuration(given: dict[str, Any], name: str) -> Configuration:
    if given.get("resume"):
        raise OptionError("--resume goes on with one run: fl-market run --resume DIR")
    folder = given.get("out_dir") or new_folder(name)
    return Configuration.of(**given | {"out_dir": str(Path(folder).absolute())})


def _compared(
    options: argparse.Namespace, configuration: Configuration, arms: Sequence[str], given: dict[str, Any]
) -> int:
    for arm in arms:
        ARM.check(arm)
    from fl_market.reports.curves import PICTURE
    from fl_market.reports.progress import show_progress
    from fl_market.reports.table import results_table, seeds_table, timings_table
    from fl_market.run_folder import RESULTS, SUMMARY
    from fl_market.runner.advice import advice
    from fl_market.runner.comparison import compare, compare_seeds

    for line in advice(configuration, arms, given):
        print(f"fl-market: {line}", file=sys.stderr)
    engine, chosen = _engine(options), getattr(options, "seeds", [])
    total = len(arms) * max(1, len(chosen)) * configuration.run.num_server_rounds
    announced = _announce if options.command is _compare and options.engine == "inline" and not options.quiet else None
    with show_progress(total, quiet=options.quiet) as observer:
        if chosen:
            by_seed = compare_seeds(
                configuration,
                arms,
                chosen,
                engine,
                overwrite=options.overwrite,
                observer=observer,
                announce=announced,
            )
            text, files = seeds_table(by_seed), [SUMMARY]
        else:
            results = compare(
                configuration, arms, engine, overwrite=options.overwrite, observer=observer, announce=announced
            )
            text, files = "\n".join(filter(None, (results_table(results), timings_table(results)))), [RESULTS, PICTURE]
    _show(text, Path(configuration.run.out_dir), files)
    return 0


def _announce(estimate: "Estimate") -> None:
    if estimate.seconds >= WORTH_TELLING:
        print(f"fl-market: {estimate}", file=sys.stderr)


def _resume(options: argparse.Namespace, given: dict[str, Any]) -> int:
    from fl_market.reports.curves import PICTURE
    from fl_market.reports.progress import show_progress
    from fl_market.reports.table import results_table
    from fl_market.run_folder import RESULTS
    from fl_market.runner.comparison import resume
    from fl_market.runner.resumption import resumed_configuration

    configuration = resumed_configuration(Path(given["resume"]).absolute(), given)
    with show_progress(configuration.run.num_server_rounds, quiet=options.quiet) as observer:
        results = resume(configuration, _engine(options), observer=observer)
    _show(results_table(results), Path(configuration.run.out_dir), [RESULTS, PICTURE])
    return 0


def _show(text: str, folder: Path, files: Sequence[str]) -> None:
    print(text)
    for file in files:
        print(folder / file)


def _bench_overhead(options: argparse.Namespace) -> int:
    set_environment()
    given = given_options(options)
    configuration = _configuration(given, "bench-overhead")
    from fl_market.benchmarks.overhead import overhead
    from fl_market.runner.advice import advice

    for line in advice(configuration, ("fedavg", "market"), given):
        print(f"fl-market: {line}", file=sys.stderr)
    print(overhead(configuration, _engine(options), overwrite=options.overwrite))
    return 0


def _engine(options: argparse.Namespace) -> "Engine":
    from fl_market.runner.engines import engine_named

    return engine_named(options.engine, verbose=options.verbose or options.debug)
