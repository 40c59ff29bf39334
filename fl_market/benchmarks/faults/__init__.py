"""Markets in one process whose machines crash, whose messages are lost, and whose disks forget.

Everything that happens comes from a seed, so that a failure can be seen again. Real are the
strategy, the agents' app, the ledger, the checkpoints and the agents' journals; simulated are the
clock, the network, the disks, and what is bought.
"""

from fl_market.benchmarks.faults.markets import Play, play

__all__ = ["Play", "play"]
