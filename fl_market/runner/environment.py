"""Environment variables and logs of Flower, Ray and torch."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # several arms run in turn, each with its own Ray; Ray's advice is not meant for users
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_LOGGERS = ("flwr", "ray")
_LIBRARIES = r"(flwr|ray|torch|torchvision)(\.|$)"
"""Modules whose Python warnings are not meant for users."""


def set_environment() -> None:
    """Set the variables that Flower and Ray read at import or start, unless the user set them."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def library_logs(shown: bool) -> Iterator[None]:
    """Show or hide the logs and warnings of Flower, Ray and torch inside the block.

    The market's own warnings are always shown: they have a logger of their own.

    Parameters
    ----------
    shown
        Show them from level INFO on; otherwise hide all of them.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            if not shown:
                warnings.filterwarnings("ignore", module=_LIBRARIES)
            for logger in loggers:
                logger.setLevel(logging.INFO if shown else logging.CRITICAL + 1)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
