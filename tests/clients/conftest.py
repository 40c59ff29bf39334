"""Agents of these tests are simulated where their node has ``num-partitions``."""

import pytest

from fl_market.simulation import simulation


@pytest.fixture(autouse=True)
def _simulated():
    with simulation():
        yield
