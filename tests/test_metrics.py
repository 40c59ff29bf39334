"""Metrics over HTTP: what Prometheus and an operator read, and nothing about any agent."""

import json
import socket
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from fl_market.errors import MarketError
from fl_market.ledger import Deal, Ledger
from fl_market.metrics import HOST, RoundMetrics, served_metrics
from fl_market.reports import RoundReport

REPORT = RoundReport("market", 3, 30, 5, 0.75, 2)


def free_port():
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


def read(port, path):
    with urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


@pytest.fixture
def ledger():
    with Ledger.open() as opened:
        for name in ("Alice-secret", "Bob-secret"):
            opened.open_account(name, 10_000_000)
        opened.agree(Deal("run/1/x", 1, "Alice-secret", "Bob-secret", 2_000_000, 0, 1_500_000, 0.5, 0.1, 0.5))
        opened.escrow("run/1/x")
        yield opened


def test_prometheus_reads_rounds_and_the_ledger(ledger):
    port, seen = free_port(), []
    with served_metrics(port, ledger, seen.append) as observe:
        assert json.loads(read(port, "/health"))["status"] == "starting"
        observe(REPORT)
        text = read(port, "/metrics")
        health = json.loads(read(port, "/health"))
    assert seen == [REPORT]
    for line in (
        'fl_market_round{arm="market"} 3.0',
        'fl_market_rounds{arm="market"} 30.0',
        'fl_market_settled_deals{arm="market"} 5.0',
        'fl_market_failed_replies{arm="market"} 2.0',
        'fl_market_test_accuracy{arm="market"} 0.75',
        'fl_market_ledger_entries{arm="market"} 4.0',
        'fl_market_escrow_credits{arm="market"} 1.5',
        'fl_market_round_seconds_count{arm="market"} 1.0',
    ):
        assert line in text.splitlines()
    assert "secret" not in text
    assert (health["status"], health["round"], health["failed replies"]) == ("running", 3, 2)


def test_the_duration_of_a_round_is_that_between_two_reports(ledger):
    clock = [0.0]
    metrics = RoundMetrics(ledger, now=lambda: clock[0])
    clock[0] = 2.0
    metrics.observe(REPORT)
    clock[0] = 7.0
    metrics.observe(RoundReport("market", 30, 30, 5, 0.75))
    assert metrics.registry.get_sample_value("fl_market_round_seconds_sum", {"arm": "market"}) == 7.0
    assert metrics.registry.get_sample_value("fl_market_round_finished_seconds", {"arm": "market"}) == 7.0
    assert metrics.health() | {"status": "finished", "seconds since the last round": 0.0} == metrics.health()


def test_other_paths_are_named_and_the_port_is_free_afterwards(ledger):
    port = free_port()
    complaint = f"the port {port} for metrics cannot be opened on 127.0.0.1: "
    with served_metrics(port, ledger):
        with pytest.raises(HTTPError, match="404"):
            read(port, "/balances")
        with pytest.raises(MarketError, match=complaint), served_metrics(port, ledger):
            pass
    with served_metrics(port, ledger):
        pass


def test_without_a_port_nothing_is_served(ledger):
    with served_metrics(0, ledger, print) as observe:
        assert observe is print
