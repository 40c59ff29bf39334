"""Metrics of a running market for Prometheus, and a line on its health.

They tell of rounds and of the ledger as a whole, and of no agent: whoever can read them learns no
balance, no bid and no gain of anyone.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Gauge, Histogram, make_wsgi_app

from fl_market.errors import MarketError
from fl_market.ledger import ESCROW, Ledger
from fl_market.pricing.money import CREDIT
from fl_market.reports import RoundReport

HOST = "127.0.0.1"
"""Metrics are for the broker's own machine: a proxy of the operator may publish them."""
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
"""Upper edges of the histogram of a round's duration."""

Observer = Callable[[RoundReport], None]


class RoundMetrics:
    """The metrics of one arm, renewed after each round.

    Parameters
    ----------
    ledger
        The market's accounts.
    now
        Clock, in seconds.

    Attributes
    ----------
    registry
        Prometheus's registry of these metrics.
    """

    def __init__(self, ledger: Ledger, now: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self._ledger, self._now, self._last = ledger, now, now()
        self._report: RoundReport | None = None

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"fl_market_{name}", text, ["arm"], registry=self.registry)

        self._gauges: dict[str, tuple[Gauge, Callable[[RoundReport], float]]] = {
            "round": (gauge("round", "last finished round"), lambda report: report.round),
            "rounds": (gauge("rounds", "rounds of the run"), lambda report: report.rounds),
            "deals": (gauge("settled_deals", "settled deals of the run"), lambda report: report.deals),
            "failures": (gauge("failed_replies", "failed replies of the run"), lambda report: report.failures),
            "accuracy": (gauge("test_accuracy", "mean accuracy that agents report"), lambda report: report.accuracy),
            "entries": (gauge("ledger_entries", "entries of the ledger"), lambda _: ledger.position()[0]),
            "escrow": (gauge("escrow_credits", "credits in escrow"), lambda _: self._escrow()),
            "finished": (gauge("round_finished_seconds", "time of the last finished round"), lambda _: self._last),
        }
        self._seconds = Histogram(
            "fl_market_round_seconds", "duration of a round", ["arm"], registry=self.registry, buckets=SECONDS
        )

    def observe(self, report: RoundReport) -> None:
        """Renew the metrics after a round."""
        now = self._now()
        self._seconds.labels(report.arm).observe(now - self._last)
        self._last, self._report = now, report
        for gauge, value in self._gauges.values():
            gauge.labels(report.arm).set(value(report))

    def health(self) -> dict[str, Any]:
        """Return the state of the run in plain types."""
        report, since = self._report, round(self._now() - self._last, 1)
        if report is None:
            return {"status": "starting", "seconds since then": since}
        status = "finished" if report.round == report.rounds else "running"
        return {
            "status": status,
            "arm": report.arm,
            "round": report.round,
            "rounds": report.rounds,
            "deals": report.deals,
            "failed replies": report.failures,
            "seconds since the last round": since,
        }

    def _escrow(self) -> float:
        return self._ledger.balances().get(ESCROW, 0) / CREDIT


@contextmanager
def served_metrics(port: int, ledger: Ledger, observer: Observer | None = None) -> Iterator[Observer | None]:
    """Serve a run's metrics inside the block: ``/metrics`` for Prometheus, ``/health`` as JSON.

    Parameters
    ----------
    port
        TCP port on 127.0.0.1; 0 for no metrics.
    ledger
        The market's accounts.
    observer
        Called after each round as well.

    Yields
    ------
    callable or None
        The observer that the run must call after each round.

    Raises
    ------
    MarketError
        If the port cannot be opened.
    """
    if not port:
        yield observer
        return
    metrics = RoundMetrics(ledger)

    def observe(report: RoundReport) -> None:
        metrics.observe(report)
        if observer is not None:
            observer(report)

    try:
        server = make_server(HOST, port, _application(metrics), WSGIServer, _Quiet)
    except OSError as error:
        raise MarketError(f"the port {port} for metrics cannot be opened on {HOST}: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield observe
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(WSGIRequestHandler):
    """A handler that logs no request."""

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _application(metrics: RoundMetrics) -> Callable[[Mapping[str, Any], Callable[..., Any]], Iterable[bytes]]:
    prometheus = make_wsgi_app(metrics.registry)

    def application(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            found: Iterable[bytes] = prometheus(environ, start_response)
            return found
        if path == "/health":
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(metrics.health()).encode() + b"\n"]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"there are /metrics and /health\n"]

    return application
