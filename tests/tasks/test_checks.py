"""A task that cannot be trained, tested or traded with is refused, by the name of what is wrong."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fl_market.errors import MarketError
from fl_market.tasks import Task
from fl_market.tasks.checks import check_task


def batch(count, classes=3, width=4):
    return torch.zeros(count, width), torch.arange(count) % classes


def build(classes):
    return nn.Linear(4, classes)


GOOD = Task("mine", build, 3, nn.CrossEntropyLoss(reduction="none"), (batch(6), batch(6)), batch(6), batch(6), 2)


class TwoOutputs(nn.Module):
    def forward(self, x):
        return x, x


def test_a_good_task_passes_and_leaves_torch_s_generator_alone():
    before = torch.random.get_rng_state()
    check_task(GOOD)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_agent_may_have_no_samples():
    check_task(replace(GOOD, agents=(batch(6), batch(0))))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"agents": (batch(6), batch(6, width=5))}, r"inputs of agent B's data in mine have shape \(5,\) .* \(4,\)"),
        ({"broker": (torch.zeros(6, 4).double(), torch.arange(6) % 3)}, "inputs of the broker's data .* torch.float64"),
        (
            {"agents": (batch(6), (torch.zeros(6, 4), torch.arange(5) % 3))},
            r"targets of agent B's data .* shape \(5,\)",
        ),
        ({"broker": (torch.zeros(6, 4), torch.zeros(6))}, "targets of the broker's data .* dtype torch.float32"),
        ({"agents": (batch(6, classes=5), batch(6))}, "targets of agent A's data in mine are from 0 to 4; .* 0 to 2"),
        ({"test": batch(0)}, "the test set of mine has no samples"),
        ({"broker": batch(3)}, "needs at least 4 validation samples; got 3: raise broker-samples"),
        ({"broker": batch(6, classes=2)}, "the broker's data in mine has no sample of class 2"),
        (
            {"build": lambda classes: nn.Linear(7, classes)},
            r"does not accept inputs of shape \(2, 4\) .*: RuntimeError:",
        ),
        ({"build": lambda classes: nn.Linear(4, 9)}, r"must return outputs of shape \(2, 3\) .*; got \(2, 9\)"),
        ({"build": lambda classes: TwoOutputs()}, "must return outputs of shape .*; got tuple"),
        ({"criterion": nn.CrossEntropyLoss()}, r"a loss for each sample, of shape \(2,\); got \(\): pass reduction"),
        ({"criterion": nn.BCELoss(reduction="none")}, "the criterion of mine fails: ValueError: "),
    ],
)
def test_what_does_not_fit_is_named(change, complaint):
    with pytest.raises(MarketError, match=complaint):
        check_task(replace(GOOD, **change))
