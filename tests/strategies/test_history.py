"""What a broker keeps of its agents' reports and failures."""

import json

from flwr.app import MetricRecord, RecordDict

from strategies.history import History


def metrics(accuracy):
    return RecordDict({"metrics": MetricRecord({"test-accuracy": accuracy, "test-loss": 1 - accuracy})})


def test_rounds_and_failures_survive_a_checkpoint():
    history = History("market", 3)
    history.keep(1, {"A": metrics(0.5), "B": metrics(0.25)})
    history.fail("B", "no answer in time")
    history.fail(1002, "a node whose agent is unknown")
    history.keep(2, {"A": metrics(0.75)}, finished=["A"])
    resumed = History("market", 3)
    resumed.restore(json.loads(json.dumps(history.as_json())))
    resumed.keep(3, {}, finished=["A", "B"])
    assert resumed.finished == {"A": 3, "B": 2}
    assert resumed.failed == {"B": 1}
    assert resumed.reasons == {"B": "no answer in time"}
    assert [entry.test_accuracy for entry in resumed.results["A"]] == [0.5, 0.75]


def test_a_node_s_failures_become_those_of_its_agent():
    history = History("market", 1)
    history.fail(7, "first")
    history.fail(7, "second")
    history.identify({7: "C", 8: "D"})
    assert history.failed == {"C": 2}
    assert history.reasons == {"C": "second"}


def test_a_stranger_cannot_blame_an_agent_that_takes_part():
    history = History("market", 1)
    history.keep(1, {"A": metrics(0.5)})
    history.fail(7, "no sense")
    history.identify({7: "A"})
    assert history.failed == {7: 1}
