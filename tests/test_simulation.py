"""What is an agent's own affair is the run's in a simulation only."""

import subprocess
import sys

import pytest

from fl_market.configuration import Configuration
from fl_market.simulation import is_simulated, simulation

NODE = {"partition-id": 0, "num-partitions": 2}
RUN = {"agent-dir": "/broker/knows", "spending-limit": 50.0, "faults": "noise", "learning-rate": 0.5}


def test_a_real_node_with_num_partitions_trusts_nobody():
    """Tutorials put it into the configuration of SuperNodes."""
    agent = Configuration.of_node(RUN, NODE).agent
    own = Configuration().agent
    assert (agent.agent_dir, agent.spending_limit, agent.faults) == (own.agent_dir, own.spending_limit, "none")


def test_inside_an_engine_the_run_sets_all():
    with simulation():
        agent = Configuration.of_node(RUN, NODE).agent
        assert not is_simulated({"partition-id": 0})
    assert (agent.agent_dir, agent.spending_limit, agent.faults) == ("/broker/knows", 50.0, "noise")
    assert not is_simulated(NODE), "the mark ends with the engine"


ACTOR = """
import ray
from fl_market.simulation import is_simulated
NODE = {"partition-id": 0, "num-partitions": 2}

@ray.remote
class Actor:
    def check(self):
        return is_simulated(NODE), is_simulated({"partition-id": 0})

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
print(is_simulated(NODE), *ray.get(Actor.remote().check.remote()))
"""


def test_flower_s_own_simulation_is_known_by_its_actors():
    """`flwr run` gives the app no other mark."""
    pytest.importorskip("ray", reason="needs Ray, which flwr[simulation] brings")
    done = subprocess.run([sys.executable, "-c", ACTOR], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr
