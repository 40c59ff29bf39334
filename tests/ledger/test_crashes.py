"""A process killed between two steps leaves a valid ledger and finishes every deal once."""

import os
import random
import signal
import time

import pytest

from fl_market.ledger import ENDOWMENT, ESCROW, Deal, DealState, Ledger

KILLS = 200
KILLS_OF_ONE_LEDGER = 10
DEALS = 40


def play(url):
    """Take all deals through all their steps; idempotent."""
    with Ledger.open(url) as ledger:
        for name in ("A", "B", "C"):
            ledger.open_account(name, 1000)
        for index in range(DEALS):
            buyer, seller = [("A", "B"), ("B", "C"), ("C", "A")][index % 3]
            ledger.agree(Deal(f"d{index}", index, buyer, seller, 50, 10, 30, 0.1, 0.05, 0.5))
            ledger.escrow(f"d{index}")
            ledger.deliver(f"d{index}")
            ledger.refund(f"d{index}") if index % 5 == 0 else ledger.settle(f"d{index}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL to kill a process at work")
def test_200_kills_at_random_moments_lose_nothing(new_ledger):
    dice = random.Random(0)
    interrupted = 0
    for _ in range(KILLS // KILLS_OF_ONE_LEDGER):
        url = new_ledger()
        for _ in range(KILLS_OF_ONE_LEDGER):
            interrupted += killed_while_playing(url, dice.uniform(0.001, 0.05))
            with Ledger.open(url) as ledger:
                assert ledger.verify() == []
                balances = ledger.balances()
                assert sum(balances.values()) == 0
                assert min(balances[name] for name in balances if name != ENDOWMENT) >= 0
        play(url)
        with Ledger.open(url) as ledger:
            states = [state for _, state in ledger.deals()]
            assert states.count(DealState.REFUNDED) == DEALS // 5
            assert states.count(DealState.SETTLED) == DEALS - DEALS // 5
            assert ledger.balance(ESCROW) == 0
            assert ledger.verify() == []
    assert interrupted > KILLS / 4, "too few processes were killed at work"


def killed_while_playing(url, seconds):
    """Kill a process that plays after some seconds; return whether it was still at work."""
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Ledger.open(url).close()
            os.write(started, b"!")
            play(url)
        finally:
            os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(started)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_replaying_any_prefix_twice_changes_nothing(ledger_url):
    steps = [("agree", None), ("escrow", "d"), ("deliver", "d"), ("settle", "d")]
    with Ledger.open(ledger_url) as ledger:
        for name in ("A", "B"):
            ledger.open_account(name, 1000)
        deal = Deal("d", 1, "A", "B", 50, 10, 30, 0.1, 0.05, 0.5)
        for length in range(1, len(steps) + 1):
            for name, argument in steps[:length]:
                getattr(ledger, name)(argument or deal)
            entries, balances = ledger.entries(), ledger.balances()
            for name, argument in steps[:length]:
                getattr(ledger, name)(argument or deal)
            assert (ledger.entries(), ledger.balances()) == (entries, balances)
            assert ledger.verify() == []
