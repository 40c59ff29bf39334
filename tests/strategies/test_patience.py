"""Deadlines and back-off, with a scripted grid and a clock that only moves when somebody waits."""

import logging
from uuid import uuid4

import pytest
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from strategies.exchange import NO_ANSWER, replies_by_node
from strategies.patience import POLL_SECONDS, PatientGrid
from tests.played import TRAIN


class Scripted(Grid):
    """Nodes that reply some seconds after each message; None for never."""

    def __init__(self, delays):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.delays, self.time, self.pending, self.asked = delays, 0.0, {}, []

    def wait(self, seconds):
        self.time += seconds

    def push_messages(self, messages):
        messages, identifiers = list(messages), []
        assert len(messages) == 1, "Flower's grid gathers what it is given, and refuses nothing"
        for message in messages:
            identifier = str(uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            node = message.metadata.dst_node_id
            self.asked.append((int(message.metadata.group_id), node))
            delay = self.delays[node]
            delay = delay(int(message.metadata.group_id)) if callable(delay) else delay
            if delay is not None:
                self.pending[identifier] = self.time + delay, message
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids):
        due = [key for key in message_ids if key in self.pending and self.pending[key][0] <= self.time]
        return [Message(RecordDict(), reply_to=self.pending.pop(key)[1]) for key in due]

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.delays)

    def create_message(self, *arguments):
        raise NotImplementedError

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError


class Rounds:
    """Phases over a scripted grid, and what each costs."""

    def __init__(self, delays, quorum=0.9, short_deadline=60.0):
        self.inner = Scripted(delays)
        self.grid = PatientGrid(
            self.inner,
            quorum=quorum,
            short_deadline=short_deadline,
            now=lambda: self.inner.time,
            pause=self.inner.wait,
        )

    def phase(self, number, timeout=600.0):
        """Return the seconds of a phase, the nodes that replied, and the failures."""
        messages = [Message(RecordDict(), node, TRAIN, group_id=str(number)) for node in self.inner.delays]
        begun = self.inner.time
        replies = self.grid.send_and_receive(messages, timeout=timeout)
        answers, failures = replies_by_node([message.metadata for message in messages], replies)
        return self.inner.time - begun, set(answers), failures


def test_where_everybody_replies_nothing_is_waited_for():
    """The slowest of 50 is five times as slow as the others; polling alone adds to its time."""
    rounds = Rounds(dict.fromkeys(range(49), 10.0) | {49: 50.0})
    for number in range(1, 4):
        seconds, answers, failures = rounds.phase(number)
        assert (len(answers), failures) == (50, {})
        assert 50 <= seconds <= 50 + POLL_SECONDS


def test_one_silent_agent_among_fifty_costs_two_short_deadlines_in_all():
    rounds = Rounds(dict.fromkeys(range(49), 10.0) | {49: None})
    costs, asked = [], []
    for number in range(1, 40):
        phases = [rounds.phase(number) for _ in range(5)]
        assert all(len(answers) == 49 for _, answers, _ in phases)
        costs.append(sum(seconds for seconds, *_ in phases) - 5 * 10.0)
        if (number, 49) in rounds.inner.asked:
            asked.append(number)
    assert asked == [1, 3, 6, 11, 20, 37], "left out of 1, 2, 4, 8, 16 rounds"
    assert [number for number, cost in enumerate(costs, start=1) if cost > 5 * POLL_SECONDS] == [1, 3]
    assert max(costs) <= 60 + 5 * POLL_SECONDS, "one deadline, not one for each phase"


def test_a_silent_agent_is_reported_once_and_then_as_left_out():
    rounds = Rounds({0: 1.0, 1: 1.0, 2: None})
    assert rounds.phase(1)[2] == {2: NO_ANSWER}
    assert rounds.phase(1)[2] == rounds.phase(2)[2] == {2: "it missed a phase, and is left out up to round 2"}
    assert rounds.phase(3)[2] == {2: NO_ANSWER}
    assert rounds.phase(5)[2] == {2: "it missed a phase, and is left out up to round 5"}


def test_after_the_quorum_the_others_have_as_long_again():
    """A phase that takes long is long for everybody: the deadline grows with it."""
    rounds = Rounds({0: 200.0, 1: 200.0, 2: 390.0, 3: None}, quorum=0.5)
    seconds, answers, failures = rounds.phase(1)
    assert answers == {0, 1, 2}
    assert failures == {3: NO_ANSWER}
    assert 400 <= seconds <= 401


def test_the_timeout_ends_a_phase_without_a_quorum():
    rounds = Rounds({0: 1.0, 1: None, 2: None})
    seconds, answers, _ = rounds.phase(1, timeout=100.0)
    assert answers == {0}
    assert 100 <= seconds <= 100 + POLL_SECONDS


def test_an_agent_that_is_back_takes_part_again_and_is_waited_for():
    rounds = Rounds({0: 1.0, 1: 1.0, 2: lambda number: None if number == 1 else 30.0}, quorum=0.5)
    rounds.phase(1)
    for number in (3, 4):
        seconds, answers, _ = rounds.phase(number)
        assert answers == {0, 1, 2}
        assert seconds >= 30
    assert rounds.inner.asked.count((4, 2)) == 1


def test_a_late_reply_is_ignored_with_one_line_and_brings_its_sender_back(caplog):
    rounds = Rounds({0: 1.0, 1: 1.0, 2: 100.0}, quorum=0.5)
    _, answers, _ = rounds.phase(1)
    assert answers == {0, 1}
    assert (2, 2) not in rounds.inner.asked
    rounds.inner.wait(100)
    with caplog.at_level(logging.WARNING, "fl_market"):
        _, answers, _ = rounds.phase(2)
    assert answers == {0, 1}, "the reply to round 1 is no reply to round 2"
    assert (2, 2) in rounds.inner.asked, "it lives"
    assert [record.getMessage() for record in caplog.records] == [
        "round 1: node 2: its reply to train came late, and is ignored"
    ]


def test_agents_that_all_missed_are_waited_for_all_the_same():
    rounds = Rounds({0: lambda number: None if number < 4 else 30.0})
    for number in (1, 3):
        rounds.phase(number)
    seconds, answers, _ = rounds.phase(6)
    assert answers == {0}
    assert seconds >= 30


@pytest.mark.parametrize("number", [1, 7])
def test_nobody_to_ask_is_no_phase(number):
    rounds = Rounds({})
    assert rounds.phase(number) == (0.0, set(), {})


def test_a_phase_without_messages_pushes_nothing_and_ends_at_once():
    rounds = Rounds({})
    assert rounds.phase(1) == (0.0, set(), {})
