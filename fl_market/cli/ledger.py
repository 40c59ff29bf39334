"""``fl-market ledger``."""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fl_market.cli.agents import add_registry, registry_path
from fl_market.errors import OptionError

if TYPE_CHECKING:
    from fl_market.cli.arguments import Commands
    from fl_market.ledger import Ledger


def add_ledger(commands: "Commands") -> None:
    """Add the commands that show and check a ledger."""
    parser = commands.add_parser("ledger", help="show, check or export a ledger")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="show accounts, deals and prices, or one account's statement")
    show.add_argument("--account", metavar="NAME", help="show only this account's statement")
    show.set_defaults(command=_show)
    verify = actions.add_parser("verify", help="check the chain of entries, the deals and the balances")
    verify.add_argument("--head", metavar="FILE", help="an agent's receipts.jsonl, whose signed heads must fit as well")
    verify.add_argument(
        "--since", metavar="FILE", help="what the last check left: read only newer entries; made by the first check"
    )
    verify.set_defaults(command=_verify)
    export = actions.add_parser("export", help="print the journal in another format")
    export.add_argument(
        "--format", choices=("csv", "json", "beancount"), default="csv", help="format (default: %(default)s)"
    )
    export.set_defaults(command=_export)
    reconcile = actions.add_parser("reconcile", help="check an agent's receipts against the ledger")
    reconcile.add_argument("--account", required=True, metavar="NAME", help="the agent's account")
    reconcile.add_argument("--receipts", required=True, metavar="FILE", help="the agent's receipts.jsonl")
    reconcile.set_defaults(command=_reconcile)
    for action in (verify, reconcile):
        action.add_argument("--key", default="", metavar="HEX", help="the operator's public key, known from elsewhere")
    abandon = actions.add_parser("abandon", help="refund the open deals of runs that will not be resumed")
    which = abandon.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", metavar="NAME", help="the run, with which the ids of its deals begin")
    which.add_argument(
        "--older-than", type=float, metavar="HOURS", help="open deals of all runs whose last step is older"
    )
    abandon.set_defaults(command=_abandon)
    fund = actions.add_parser("fund", help="add credits to a registered agent's account")
    fund.add_argument("account", metavar="NAME", help="the agent's name")
    fund.add_argument("credits", type=float, metavar="CREDITS", help="credits to add")
    fund.add_argument("--memo", default="", metavar="TEXT", help="the reason, for the journal")
    add_registry(fund)
    fund.set_defaults(command=_fund)
    for action in (show, verify, export, reconcile, abandon, fund):
        action.add_argument(
            "--db", required=True, metavar="URL", help="the ledger: a file, sqlite:///FILE, or postgresql+psycopg://…"
        )
        action.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)


def _url(options: argparse.Namespace) -> str:
    scheme, separator, _ = options.db.partition("://")
    if separator and not scheme.startswith(("sqlite", "postgresql")):
        raise OptionError(f"--db must be a file, sqlite:///FILE or postgresql+psycopg://…; got {options.db!r}")
    return str(options.db) if separator else f"sqlite:///{options.db}"


def _opened(options: argparse.Namespace) -> "Ledger":
    from fl_market.ledger import Ledger

    return Ledger.open_existing(_url(options))


def _abandon(options: argparse.Namespace) -> int:
    from fl_market.errors import MarketError
    from fl_market.market import settlement

    with _opened(options) as ledger:
        if options.older_than is not None:
            if not options.older_than > 0:
                raise OptionError(f"--older-than must be above 0 hours; got {options.older_than:g}")
            expired = settlement.end_deals(ledger, ledger.open_since(time.time() - 3600 * options.older_than))
            print(f"{expired} open deals older than {options.older_than:g} hours are refunded or void")
            return 0
        if options.run not in (known := ledger.runs()):
            raise MarketError(f"the ledger has no run {options.run!r}; it has {', '.join(known) or 'none'}")
        ended = settlement.end_open_deals(ledger, [options.run])
    print(f"{ended} open deals of {options.run} are refunded or void")
    return 0


def _fund(options: argparse.Namespace) -> int:
    from fl_market.errors import MarketError
    from fl_market.ledger import Ledger
    from fl_market.pricing.money import credits_text, micro_credits
    from fl_market.registry import Registry

    registry, name = Registry.read(registry_path(options)), options.account
    if name not in registry.keys:
        raise MarketError(f"no agent {name} is registered; fl-market agents add registers one")
    with Ledger.open(_url(options)) as ledger, ledger.together():  # the first funding may make the ledger
        ledger.open_account(name, 0, registry.keys[name])
        balance = ledger.fund(name, micro_credits(options.credits), options.memo)
    print(f"{name} has {credits_text(balance)} credits")
    return 0


def _show(options: argparse.Namespace) -> int:
    from fl_market.reports.ledger import ledger_table, statement_table

    with _opened(options) as ledger:
        print(statement_table(ledger, options.account) if options.account else ledger_table(ledger))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from fl_market.ledger import read_receipts, rewritten
    from fl_market.ledger.receipts import heads_in

    with _opened(options) as ledger:
        entries, deals = ledger.size()
        found = f"ledger OK: {entries} entries, {deals} deals, and all balances add up to 0"
        problems = _newer_problems(ledger, Path(options.since)) if options.since else ledger.verify()
        if options.head:
            heads = heads_in(read_receipts(Path(options.head)))
            problems += rewritten(heads, ledger.hashes(), options.key)
            found += f"; {len(heads)} signed heads of {options.head} fit"
        return _ended(problems, found)


def _newer_problems(ledger: "Ledger", file: Path) -> list[str]:
    """Check the entries after the last check, which left a file; leave it anew without problems."""
    from fl_market.errors import MarketError
    from fl_market.files import write_whole
    from fl_market.ledger.verification import Mark

    mark = Mark()
    if file.exists():
        try:
            mark = Mark.from_json(json.loads(file.read_bytes()))
        except (ValueError, TypeError, KeyError, OSError):
            raise MarketError(f"{file} is not what fl-market ledger verify --since left") from None
    problems, reached = ledger.verify_since(mark)
    if not problems:
        write_whole(file, json.dumps(reached.as_json()).encode())
    return problems


def _export(options: argparse.Namespace) -> int:
    from fl_market.reports.export import FORMATS

    with _opened(options) as ledger:
        print(FORMATS[options.format](ledger), end="")
    return 0


def _reconcile(options: argparse.Namespace) -> int:
    from fl_market.ledger import read_receipts, reconcile, rewritten
    from fl_market.ledger.receipts import heads_in

    with _opened(options) as ledger:
        receipts = read_receipts(Path(options.receipts))
        problems = reconcile(options.account, ledger.deals(), receipts)
        problems += rewritten(heads_in(receipts), ledger.hashes(), options.key)
    return _ended(problems, f"all {len(receipts)} receipts of {options.account} agree with the ledger")


def _ended(problems: list[str], otherwise: str) -> int:
    for line in problems or [otherwise]:
        print(line)
    return 1 if problems else 0
