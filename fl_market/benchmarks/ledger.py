"""``fl-market bench ledger``: settled deals a second, and time and memory of ``verify``.

Deals take all their steps (agreed, escrowed, delivered, settled), on SQLite with
``synchronous=FULL``: one by one, each step a transaction, and in rounds, each step of a round a
transaction as the market books them.
"""

import multiprocessing
import resource
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from fl_market.ledger import Deal, Ledger
from fl_market.naming import agent_name
from fl_market.reports.table import summary_table
from fl_market.run_folder import claim_file, write_json

AGENTS = 20
ENDOWMENT = 1_000_000_000_000
ONE_BY_ONE = 500
"""Deals that are booked one by one."""


def bench_ledger(out_dir: str, *, deals: int = 100_000, a_round: int = 100, overwrite: bool = False) -> str:
    """Measure a ledger; write ``ledger.json``, return a table.

    Parameters
    ----------
    out_dir
        Folder of the report. The ledgers are in it while they are measured.
    deals
        Number of deals that ``verify`` checks.
    a_round
        Deals of a round.
    overwrite
        Whether an earlier report may be overwritten.

    Raises
    ------
    MarketError
        If the report exists and may not be overwritten, or the ledger has problems.
    """
    folder = claim_file(Path(out_dir), "ledger.json", overwrite)
    alone = _booked(folder / "one-by-one.db", ONE_BY_ONE, 1)
    together = _booked(folder / "rounds.db", deals, a_round)
    # memory is the largest of a process, so that each measurement needs one of its own
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        seconds, megabytes = pool.apply(_verified, (str(folder / "rounds.db"),))
    for name in ("one-by-one.db", "rounds.db"):
        for suffix in ("", "-wal", "-shm"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    document = {
        "deals": deals,
        "deals of a round": a_round,
        "settled deals a second, one by one": alone,
        "settled deals a second, in rounds": together,
        "seconds of verify": seconds,
        "peak memory of verify (MB)": megabytes,
    }
    write_json(folder / "ledger.json", document)
    rows = [
        ("settled deals a second, one by one", f"{alone:.0f}"),
        (f"settled deals a second, {a_round} a round", f"{together:.0f}"),
        (f"verify of {deals} deals", f"{seconds:.1f} s, {megabytes:.0f} MB"),
    ]
    return summary_table("The ledger on SQLite, synchronous=FULL", ("", ""), rows)


def _booked(path: Path, deals: int, a_round: int) -> float:
    """Book deals, and return how many were settled a second."""
    with Ledger.open(f"sqlite:///{path}") as ledger:
        agents = [agent_name(index) for index in range(AGENTS)]
        with ledger.together():
            for agent in agents:
                ledger.open_account(agent, ENDOWMENT)
        began = time.perf_counter()
        for first in range(0, deals, a_round):
            some = [_deal(index, agents) for index in range(first, min(first + a_round, deals))]
            _book(ledger, some, joined=a_round > 1)
        return deals / (time.perf_counter() - began)


def _deal(index: int, agents: list[str]) -> Deal:
    buyer, seller = agents[index % AGENTS], agents[(index + 1 + index // AGENTS % (AGENTS - 1)) % AGENTS]
    number = index // 100
    return Deal(f"market/{number}/{buyer}/{seller}/{index}", number, buyer, seller, 40, 20, 30, 0.1, 0.05, 0.5)


def _book(ledger: Ledger, deals: list[Deal], *, joined: bool) -> None:
    ids = [deal.id for deal in deals]
    with ledger.together(ids) if joined else nullcontext():
        for deal in deals:
            ledger.agree(deal)
            ledger.escrow(deal.id)
    for step in (ledger.deliver, ledger.settle):
        with ledger.together(ids) if joined else nullcontext():
            for name in ids:
                step(name)


def _verified(path: str) -> tuple[float, float]:
    """Return the seconds of ``verify`` and the largest memory of this process in MB."""
    with Ledger.open_existing(f"sqlite:///{path}") as ledger:
        began = time.perf_counter()
        problems = ledger.verify()
        seconds = time.perf_counter() - began
    assert problems == []
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes, or kibibytes
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
