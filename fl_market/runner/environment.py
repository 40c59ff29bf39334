"""Environment variables that Flower and Ray read."""

import os

_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # several arms run one after the other, each with a Ray of its own: its advice is not meant for users
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def set_environment() -> None:
    """Set what Flower and Ray read when they are imported or started, unless the user has."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
