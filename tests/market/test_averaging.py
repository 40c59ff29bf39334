"""Matched averaging and gated fine-tuning, without any message."""

import pytest
import torch
from torch import nn

from fl_market.broker import Broker, Terms
from fl_market.market.fine_tuning import fine_tuned
from fl_market.permutation import apply_permutation, random_permutation


def build():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def data(seed, shuffled=False):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(400, 6, generator=generator)
    targets = inputs[:, :3].argmax(1)
    return inputs, targets[torch.randperm(400, generator=generator)] if shuffled else targets


def broker(shuffled=False, **terms):
    criterion = nn.CrossEntropyLoss(reduction="none")
    return Broker(build(), criterion, data(1, shuffled), data(2, shuffled), terms=Terms(**terms))


def model(seed):
    torch.manual_seed(seed)
    return {name: tensor.detach() for name, tensor in build().state_dict().items()}


def test_the_average_with_a_permuted_copy_is_the_model_itself():
    made, own = broker(repair=False), model(0)
    copies = [apply_permutation(made.spec, random_permutation(made.spec, seed), own) for seed in (1, 2)]
    average = made.matched_average({"A": own, "B": copies[0], "C": copies[1]})
    for name, tensor in own.items():
        torch.testing.assert_close(average[name], tensor)


def test_all_agents_have_equal_shares():
    made = broker(repair=False, alignment="none")
    models = {name: model(seed) for seed, name in enumerate("ABC")}
    average = made.matched_average(models)
    for name, tensor in average.items():
        torch.testing.assert_close(tensor, torch.stack([state[name] for state in models.values()]).mean(0))


def test_matched_averaging_uses_no_labels():
    models = {name: model(seed) for seed, name in enumerate("AB")}
    averages = [broker(shuffled).matched_average(models) for shuffled in (False, True)]
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


@pytest.mark.parametrize(("steps", "taken"), [(40, True), (0, False)])
def test_fine_tuning_is_taken_only_with_a_certified_gain(steps, taken):
    objective, own = broker().objective_of(), model(0)
    before = {name: tensor.clone() for name, tensor in own.items()}
    tuned = fine_tuned(own, objective, steps=steps, learning_rate=0.01)
    assert (tuned is not own) == taken
    assert all(torch.equal(own[name], before[name]) for name in own)
    if taken:
        assert objective.loss(tuned, objective.certify).mean() < objective.loss(own, objective.certify).mean()
