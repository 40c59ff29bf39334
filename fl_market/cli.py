"""The ``fl-market`` command.

Exit status 0 on success, 2 on bad arguments, 1 on a failed run; errors are one sentence on standard error.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

from fl_market.configuration import Configuration
from fl_market.errors import MarketError

_NAMED = {"rounds": "num_server_rounds", "out": "out_dir"}
_HELP = {
    "task": "what is trained: a shipped task, or your own as FILE.py:FUNCTION",
    "agents": "number of agents",
    "num_server_rounds": "number of rounds",
    "seed": "decides every random choice",
    "data_dir": "data in torchvision's layout; without it, the sample that the package ships",
    "download": "let torchvision fetch the data into --data-dir",
    "out_dir": "folder for the results; runs/… by default",
    "checkpoints_kept": "how many rounds' checkpoints a market keeps in --out; 0 for none",
    "resume": "go on with the run in this folder, after its last checkpoint; its other options are taken from there",
    "partition": "how the training set is shared out: halves (the paper's), dirichlet(β) or shards(k)",
    "scarce_share": "share that an agent keeps of its scarce classes",
    "broker_samples": "size of the broker's validation data; 0 for the task's own",
    "train_samples": "how much of the training set is used; 0 for all of it",
    "norm": "norm layers of residual networks: batch, layer or group",
    "widen": "factor of a residual network's channels",
    "profile": "what agents want to be good at: common, own (as their training data), or classes as 0,1;2,3",
    "labels": "classes that agents distinguish, as 0,1,2;3,4: agents that differ trade what they share",
    "validation_samples": "training samples that an agent holds out for the broker to judge its purchases by",
    "augment": "random crops and flips of training images",
    "image_size": "size that photographs are resized to; 0 for the published one",
    "common_init": "market agents start from one initialisation and trade from round 1",
    "first_round": "first round of trading; 0 for 5, or 1 with --common-init",
    "local_epochs": "epochs of local training a round",
    "batch_size": "of local training; 0 for the task's own",
    "optimiser": "of local training: sgd or adam",
    "learning_rate": "of local training",
    "momentum": "of local training with sgd",
    "device": "where models are computed: auto, cpu or cuda",
    "precision": "auto (mixed on CUDA), float32, or bfloat16 for mixed precision",
    "test_every": "agents test their models every so many rounds, and after the last",
    "layers": "what a purchase comprises: all, or indices and name patterns of layers with commas between",
    "layer_budget": "share of the parameters that a purchase may comprise; the broker picks the best layers within it",
    "max_purchases": "how many sellers a buyer may buy from in one round",
    "novelty": "how far a seller's parameters must be from all that was delivered, as a share of their norm",
    "gain": "gain-from-trade: relative or difference",
    "confidence": "level of the certified gain's lower bound",
    "repair": "restore the merged model's activation statistics",
    "fit_steps": "gradient steps on the purchased weights of layers or rows",
    "fit_learning_rate": "of those steps",
    "fit_batch_size": "samples that each of them sees, and the search for a single weight; 0 for all",
    "tuning_learning_rate": "of fedavg-tuned's steps",
    "proximal_mu": "weight of fedprox' proximal term",
    "server_learning_rate": "of fedadam",
    "bid_scale": "credits that a buyer bids for a gain of 1",
    "pricing": "rule of market-priced: nash, ask, free, split(share) or posted(credits)",
    "disclosure": "what sellers are told of a buyer: sealed (nothing), paper, or sharp (the same, better used)",
    "learn_prior": "sellers learn their prior from their own quotes, once they have five",
    "prior": "a seller's belief about the buyer's gain, as 'uniform(0, 1)' or 'exponential(10)'",
    "cost": "a seller's own cost, in units of the gain",
    "purchase_limit": "credits that an agent pays at most for one purchase; 0 for no limit",
    "spending_limit": "credits that an agent pays at most for all; 0 for no limit",
    "reserve_price": "credits that an agent asks at least",
    "local_data": "an agent's own training data: a folder of images by class, an .npz file, or FILE.py:FUNCTION",
    "agent_dir": "folder in which each agent keeps its model and its receipts",
    "local_privacy": "how an agent blurs what it gives away: gaussian(clipping_norm, sensitivity, epsilon, delta)",
    "endowment": "credits that each agent starts with",
    "class_tolerance": "how much the loss of any class may rise by a purchase; 0 for any rise",
    "unpaid_deliveries": "deliveries in a row that a buyer may leave unacknowledged before it may no longer buy",
    "bind_accounts": "an account belongs to the node that opened it: for nodes that authenticate",
    "reply_timeout": "seconds to wait for an agent's reply",
    "connect_timeout": "seconds to wait for the agents to connect",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except MarketError as error:
        if options.debug:
            raise
        print(f"fl-market: {error}", file=sys.stderr)
        return 2 if isinstance(error, _BadArgumentsError) else 1
    except KeyboardInterrupt:
        print("fl-market: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if options.debug:
            raise
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        print(f"fl-market: the run failed: {reason} (--debug shows where)", file=sys.stderr)
        return 1


class _BadArgumentsError(MarketError):
    """An argument that parses but does not fit."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fl-market", description="A market of model parameters on Flower.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run one arm")
    run.add_argument("--strategy", default="market", help="arm to run (default: %(default)s)")
    _add_run_options(run, "simulation")
    run.set_defaults(command=_run)

    compare = commands.add_parser("compare", help="run several arms on the same data, seeds and rounds")
    compare.add_argument("--arms", help="comma-separated (default: siloed,fedavg,market,market-priced)")
    compare.add_argument("--seeds", help="comma-separated: repeat for each seed in a folder of its own, and summarise")
    _add_run_options(compare, "inline")
    compare.set_defaults(command=_compare)

    _add_experiments(commands.add_parser("experiment", help="one of the paper's experiments, over many seeds"))

    bench = commands.add_parser("bench", help="measure speed: both sides in one run, as a ratio")
    benches = bench.add_subparsers(required=True, metavar="NAME")
    overhead = benches.add_parser("overhead", help="wall time of a market against FedAvg's")
    _add_run_options(overhead, "inline")
    overhead.set_defaults(command=_bench_overhead)
    align = benches.add_parser(
        "align", help="matching against rebasin and plain coordinate descent; about half an hour"
    )
    align.add_argument("--data-dir", required=True, metavar="DIR", help="MNIST and CIFAR-10 in torchvision's layout")
    align.add_argument("--seed", type=int, default=0, metavar="INT", help="decides all that is random")
    align.add_argument("--out", metavar="DIR", help="folder for align.json; runs/… by default")
    align.add_argument("--overwrite", action="store_true", help="remove an earlier run from --out")
    align.add_argument("--debug", action="store_true", help="show tracebacks")
    align.set_defaults(command=_bench_align)
    chaos = benches.add_parser("chaos", help="kill processes of deployed markets at random; about an hour")
    chaos.add_argument("--kills", type=int, default=50, metavar="N", help="how many (default: 50)")
    chaos.add_argument("--seed", type=int, default=0, metavar="S", help="decides what is killed, and when")
    chaos.add_argument("--out", default="", metavar="DIR", help="folder for chaos.json, the deployment and its logs")
    chaos.add_argument("--overwrite", action="store_true", help="overwrite chaos.json in --out")
    chaos.add_argument("--debug", action="store_true", help="show tracebacks")
    chaos.set_defaults(command=_bench_chaos)

    ledger = commands.add_parser("ledger", help="look into a ledger")
    ledger.add_argument("action", choices=("show", "verify", "export", "reconcile"))
    ledger.add_argument(
        "--db", required=True, metavar="URL", help="sqlite:///FILE or the file itself, or postgresql+psycopg://…"
    )
    ledger.add_argument(
        "--account", metavar="NAME", help="show: the statement of one account; reconcile: whose receipts"
    )
    ledger.add_argument("--receipts", metavar="FILE", help="reconcile: an agent's journal, receipts.jsonl")
    ledger.add_argument(
        "--format",
        choices=("csv", "json", "beancount"),
        default="csv",
        help="export: to standard output (default: csv)",
    )
    ledger.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    ledger.set_defaults(command=_ledger)
    return parser


def _add_experiments(parser: argparse.ArgumentParser) -> None:
    experiments = parser.add_subparsers(required=True, metavar="NAME", dest="name")
    for name, text in {
        "table1": "the arms on MNIST, CIFAR-10 and TinyImageNet",
        "table2": "trading some layers, or the best within a budget",
        "figure2": "how fast the arms' test losses fall",
    }.items():
        experiment = experiments.add_parser(name, help=text)
        experiment.add_argument("--scale", choices=("quick", "full"), default="quick", help="(default: %(default)s)")
        experiment.add_argument("--data-dir", required=True, metavar="DIR", help="data sets in torchvision's layout")
        if name == "table1":
            experiment.add_argument("--data", metavar="SET,…", help="of mnist, cifar10, tinyimagenet")
        experiment.add_argument("--seeds", default="0,1,2", help="comma-separated (default: %(default)s)")
        experiment.add_argument("--jobs", type=int, default=0, help="runs at the same time (default: one a processor)")
        experiment.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
        experiment.add_argument(
            "--out", metavar="DIR", help="folder of the result; what is finished in it is not run again"
        )
        experiment.add_argument("--quiet", action="store_true", help="no progress")
        experiment.add_argument("--debug", action="store_true", help="show tracebacks")
        experiment.set_defaults(command=_table)
    for name, text in {
        "figure3": "linear agents in the market against siloed ones",
        "figure4": "the market's benefit by the distance of the tasks",
        "figure5": "prices against the truthful optimum",
        "theorem51": "rounds to convergence against the bound",
    }.items():
        experiment = experiments.add_parser(name, help=text)
        seeds = ",".join(map(str, range(20)))
        experiment.add_argument("--seeds", default=seeds, help="comma-separated (default: 0,1,…,19)")
        experiment.add_argument("--out", metavar="DIR", help="folder for NAME.json and NAME.png; runs/… by default")
        experiment.add_argument("--overwrite", action="store_true", help="replace an earlier result in --out")
        experiment.add_argument("--debug", action="store_true", help="show tracebacks")
        experiment.set_defaults(command=_experiment)


def _add_run_options(parser: argparse.ArgumentParser, engine: str) -> None:
    names = {field: name for name, field in _NAMED.items()}
    for field in fields(Configuration):
        if field.name == "strategy":
            continue
        flag = f"--{names.get(field.name, field.name).replace('_', '-')}"
        text = f"{_HELP[field.name]} (default: {field.default})" if field.default != "" else _HELP[field.name]
        if field.type is bool:
            parser.add_argument(
                flag, dest=field.name, action=argparse.BooleanOptionalAction, default=field.default, help=text
            )
        else:
            kind = field.type if field.type in (int, float) else str
            parser.add_argument(
                flag, dest=field.name, type=kind, default=field.default, metavar=kind.__name__.upper(), help=text
            )
    parser.add_argument(
        "--engine",
        choices=("simulation", "inline"),
        default=engine,
        help="Flower's simulation over Ray, or in this process (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier run from --out")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--verbose", action="store_true", help="show Flower's log")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _configuration(options: argparse.Namespace, name: str) -> Configuration:
    try:
        values = {
            field.name: getattr(options, field.name) for field in fields(Configuration) if hasattr(options, field.name)
        }
        if values["task"].rpartition(":")[0].endswith(".py"):
            values["task"] = str(Path(values["task"]).absolute())  # other processes may run elsewhere
        configuration = Configuration(**values)
    except MarketError as error:
        raise _BadArgumentsError(str(error)) from error
    if configuration.resume:
        from fl_market.run_folder import read_configuration

        if name != "run":
            raise _BadArgumentsError("resume goes on with one run: accepted is fl-market run --resume DIR")
        folder = str(Path(configuration.resume).absolute())
        return replace(read_configuration(Path(folder)), resume=folder, out_dir=folder)
    if not configuration.out_dir:
        configuration = replace(configuration, out_dir=_new_folder(name))
    return replace(configuration, out_dir=str(Path(configuration.out_dir).absolute()))


def _new_folder(name: str) -> str:
    return str(Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{name}")


def _run(options: argparse.Namespace) -> int:
    options.arms, options.seeds = options.strategy, None
    return _compare(options, name="run")


def _compare(options: argparse.Namespace, name: str = "compare") -> int:
    from fl_market.runner.environment import set_environment

    configuration = _configuration(options, name)
    set_environment()
    from fl_market.reports.curves import PICTURE
    from fl_market.reports.progress import show_progress
    from fl_market.reports.table import results_table, seeds_table
    from fl_market.run_folder import RESULTS, SUMMARY
    from fl_market.runner.comparison import DEFAULT_ARMS, check_arms, compare, compare_seeds, resume
    from fl_market.runner.engines import engine_named

    arms = options.arms.split(",") if options.arms else list(DEFAULT_ARMS)
    try:
        check_arms(arms)
    except MarketError as error:
        raise _BadArgumentsError(str(error)) from error
    seeds = _seeds(options.seeds) if options.seeds else []
    engine = engine_named(options.engine, verbose=options.verbose or options.debug)
    total = len(arms) * max(1, len(seeds)) * configuration.num_server_rounds
    with show_progress(total, quiet=options.quiet) as observer:
        if configuration.resume:
            results = resume(configuration, engine, observer=observer)
            text, files = results_table(results), [RESULTS, PICTURE]
        elif seeds:
            by_seed = compare_seeds(configuration, arms, seeds, engine, overwrite=options.overwrite, observer=observer)
            text, files = seeds_table(by_seed), [SUMMARY]
        else:
            results = compare(configuration, arms, engine, overwrite=options.overwrite, observer=observer)
            text, files = results_table(results), [RESULTS, PICTURE]
    print(text)
    for file in files:
        print(Path(configuration.out_dir) / file)
    return 0


def _experiment(options: argparse.Namespace) -> int:
    from fl_market.experiments.linear_figures import run_experiment

    seeds = _seeds(options.seeds)
    out_dir = options.out or _new_folder(options.name)
    print(run_experiment(options.name, out_dir, seeds, overwrite=options.overwrite))
    for suffix in ("json", "png"):
        print(Path(out_dir) / f"{options.name}.{suffix}")
    return 0


def _table(options: argparse.Namespace) -> int:
    from fl_market.runner.environment import set_environment

    set_environment()
    from fl_market.experiments.network_tables import Plan, run_table

    data_sets = tuple(options.data.split(",")) if getattr(options, "data", None) else ()
    try:
        plan = Plan(
            options.scale,
            str(Path(options.data_dir).absolute()),
            _seeds(options.seeds),
            data_sets,
            options.jobs,
            options.device,
        )
    except MarketError as error:
        raise _BadArgumentsError(str(error)) from error
    out_dir = options.out or _new_folder(f"{options.name}-{options.scale}")

    def report(line: str) -> None:
        if not options.quiet:
            print(line, file=sys.stderr, flush=True)

    print(run_table(options.name, out_dir, plan, report))
    print(Path(out_dir) / f"{options.name}.json")
    return 0


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise _BadArgumentsError(
            f"--seeds cannot be {text!r}; accepted are whole numbers with commas between"
        ) from None


def _bench_overhead(options: argparse.Namespace) -> int:
    from fl_market.runner.environment import set_environment

    configuration = _configuration(options, "bench-overhead")
    set_environment()
    from fl_market.benchmarks.overhead import overhead
    from fl_market.runner.engines import engine_named

    engine = engine_named(options.engine, verbose=options.verbose or options.debug)
    print(overhead(configuration, engine, overwrite=options.overwrite))
    return 0


def _bench_align(options: argparse.Namespace) -> int:
    from fl_market.benchmarks.align import align

    out_dir = options.out or _new_folder("bench-align")
    print(align(options.data_dir, out_dir, seed=options.seed, overwrite=options.overwrite))
    print(Path(out_dir) / "align.json")
    return 0


def _bench_chaos(options: argparse.Namespace) -> int:
    from fl_market.benchmarks.chaos import chaos

    if options.kills < 1:
        raise _BadArgumentsError(f"--kills cannot be {options.kills}; accepted is a whole number of at least 1")
    out_dir = options.out or _new_folder("bench-chaos")

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    # ended by a signal, it ends what it has started
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(chaos(out_dir, kills=options.kills, seed=options.seed, overwrite=options.overwrite, report=report))
    print(Path(out_dir) / "chaos.json")
    return 0


def _ledger(options: argparse.Namespace) -> int:
    from fl_market.ledger import Ledger, read_receipts, reconcile
    from fl_market.reports.export import FORMATS
    from fl_market.reports.ledger import ledger_table, statement_table

    if options.action == "reconcile" and not (options.account and options.receipts):
        raise _BadArgumentsError("reconcile needs --account NAME and --receipts FILE")
    url = options.db if "://" in options.db else f"sqlite:///{options.db}"
    with Ledger.open_existing(url) as ledger:
        if options.action == "show":
            print(statement_table(ledger, options.account) if options.account else ledger_table(ledger))
            return 0
        if options.action == "export":
            print(FORMATS[options.format](ledger), end="")
            return 0
        if options.action == "reconcile":
            receipts = read_receipts(Path(options.receipts))
            problems = reconcile(options.account, ledger.deals(), receipts)
        else:
            problems = ledger.verify()
        for problem in problems:
            print(problem)
        if not problems and options.action == "reconcile":
            print(f"all {len(receipts)} receipts of {options.account} agree with the ledger")
        elif not problems:
            counts = f"{len(ledger.entries())} entries, {len(ledger.deals())} deals"
            print(f"the ledger is right: {counts}, and all balances add up to 0")
        return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
