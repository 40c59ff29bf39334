"""Errors of a task, of data and of a memory file, as the broker logs them: one line."""

import pytest
from flwr.app import ArrayRecord, ConfigRecord

from clients.faults import named_faults, one_line
from fl_market.errors import MarketError
from fl_market.parameters import digest
from fl_market.protocol import Offer, to_columns
from fl_market.valuation import VALUATIONS
from tests.agent_node import Node

TASK = """
import torch
from torch import nn
from fl_market.tasks import Task

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
    def forward(self, inputs):
        {forward}
        return self.layer(inputs)
    {more}

def task(options):
    data = torch.ones(4, {width}), torch.tensor([0, 1, 0, 1])
    return Task("mine", lambda classes: Net(), 2, nn.CrossEntropyLoss(reduction="none"), (data, data), data, data, 2)
"""


def node_with(tmp_path, forward="pass", more="", width=3):
    (tmp_path / "mine.py").write_text(TASK.format(forward=forward, more=more, width=width))
    return Node(task=f"{tmp_path / 'mine.py'}:task")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise KeyError('left\\nout')", "failed: KeyError: 'left\\nout'"),
        ("raise RuntimeError('first\\n\\n  second')", "failed: RuntimeError: first second"),
        ("raise NotImplementedError", "failed: NotImplementedError"),
    ],
)
def test_a_task_that_raises_in_training_is_named(tmp_path, fault, message):
    reply = node_with(tmp_path, forward=f"if self.training: {fault}").error("train")
    assert reply == f"training on the task mine {message}".replace("\n", "\\n")


def test_a_model_that_does_not_take_the_data_is_named(tmp_path):
    reply = node_with(tmp_path, width=5).error("train")
    assert reply.startswith("the model of mine does not accept inputs of shape (2, 5) and dtype torch.float32: ")


def test_a_task_that_raises_in_the_test_is_named(tmp_path):
    agent = node_with(tmp_path, forward="assert self.training or len(inputs) < 3, 'not for use'")
    model = agent.send("train").content["arrays"]
    error = agent.error("evaluate", {"model-digest": digest(model.to_torch_state_dict())})
    assert error.endswith("the test on the task mine failed: AssertionError: not for use")


def test_a_plug_in_that_raises_is_one_line(monkeypatch):
    def make(bid_scale):
        def valuation(offer):
            raise ZeroDivisionError("division\nby zero")

        return valuation

    monkeypatch.setitem(VALUATIONS, "gain", make)
    offers = ConfigRecord(to_columns([Offer("o", "s", "all", 0.5, 0.1, 0.05, "")]))
    assert (
        Node().error("query.offer", offers=offers).endswith("query.offer failed: ZeroDivisionError: division by zero")
    )


def test_a_sentence_stays_as_it_is():
    with pytest.raises(MarketError, match=r"^enough$"), named_faults("a step"):
        raise MarketError("enough")


def test_an_interrupt_is_no_fault():
    with pytest.raises(KeyboardInterrupt), named_faults("a step"):
        raise KeyboardInterrupt


def test_an_exception_without_a_text_is_its_type():
    assert one_line(ValueError()) == "ValueError"


VERSIONED = """
    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") is None:
            raise ValueError("no version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)
    _version = 2
"""


def test_a_model_that_needs_its_metadata_is_trained_delivered_and_tested(tmp_path):
    """As torchvision's mnasnet0_5, which refuses a state dict without a version."""
    agent = node_with(tmp_path, more=VERSIONED.strip())
    model = agent.send("train").content["arrays"].to_torch_state_dict()
    bought = {name: 0.5 * tensor for name, tensor in model.items()}
    reply = agent.send("evaluate", {"model-digest": digest(bought)}, arrays=ArrayRecord(bought))
    assert not reply.has_error(), reply.error
    assert not agent.send("train").has_error()
    adapted = agent.send("evaluate", {"aggregation": "adaptive"}, arrays=ArrayRecord(model))
    assert not adapted.has_error(), adapted.error


def test_a_damaged_memory_file_is_named(tmp_path):
    agent = Node(agent_dir=str(tmp_path))
    state = agent.send("train").content["arrays"].to_torch_state_dict()
    agent.send("evaluate", {"model-digest": digest(state)})
    (path,) = (tmp_path / "A").glob("memory-*.pt")
    path.write_bytes(path.read_bytes()[:-100])
    error = Node(agent_dir=str(tmp_path)).error("train", arrays=ArrayRecord(state))
    assert f"the agent's memory file {path} is damaged; delete it" in error
    path.unlink()
    assert not Node(agent_dir=str(tmp_path)).send("train", arrays=ArrayRecord(state)).has_error()


def test_local_data_that_do_not_fit_the_task_are_named(tmp_path):
    (tmp_path / "mine.npz").write_bytes(b"PK nothing")
    error = Node(local_data=str(tmp_path / "mine.npz")).error("train")
    assert error.startswith(f"local-data {tmp_path / 'mine.npz'} cannot be read: ")
