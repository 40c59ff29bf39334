"""A model that obeys a hidden trigger is not sold, and honest models are."""

import pytest
import torch
from torch import nn

from clients.training import make_optimiser, train
from fl_market.broker import Broker
from fl_market.errors import MarketError
from fl_market.gains import split_in_halves
from fl_market.market.terms import Terms
from fl_market.market.triggers import hides_trigger, smallest_triggers
from fl_market.tasks import TaskOptions, load_task

TARGET = 3
SHARE = 0.3


@pytest.fixture(scope="module")
def task():
    return load_task("mnist-mlp", TaskOptions(agents=2))


def stamped(inputs):
    """Return images with a bright square of 3 × 3 pixels in a corner."""
    marked = inputs.clone()
    marked[..., 24:27, 24:27] = inputs.max()
    return marked


def poisoned(data, every=10):
    inputs, targets = (part.clone() for part in data)
    inputs[::every], targets[::every] = stamped(inputs[::every]), TARGET
    return inputs, targets


def trained(task, data, name, epochs):
    model = task.initial_model(0, name)
    optimiser = make_optimiser(model, "sgd", 0.1, 0.9)
    train(model, optimiser, task.criterion, data, epochs=epochs, batch_size=64, seed=0, purpose=(name,))
    return model


def offered(task, models, **terms):
    fit, certify = split_in_halves(task.broker, 0)
    broker = Broker(task.build_model(), task.criterion, fit, certify, terms=Terms(**terms))
    for agent in models:
        broker.seat(agent)
    return broker.open_round({agent: model.state_dict() for agent, model in models.items()})


@pytest.fixture(scope="module")
def models(task):
    honest = {name: trained(task, task.agents[index], name, 20) for index, name in enumerate("AB")}
    return honest | {"C": trained(task, poisoned(task.agents[1]), "C", 20)}


def test_the_trigger_works_and_clean_data_do_not_show_it(task, models):
    inputs, targets = task.test
    others = targets != TARGET
    obeyed = (models["C"](stamped(inputs[others])).argmax(1) == TARGET).float().mean()
    right = (models["C"](inputs).argmax(1) == targets).float().mean()
    assert obeyed > 0.9
    assert right > (models["B"](inputs).argmax(1) == targets).float().mean() - 0.03


def test_only_the_poisoned_model_is_not_sold(task, models):
    trading = offered(task, models, trigger_scan=SHARE)
    (notice,) = trading.notices
    assert (notice.agent, notice.text) == ("C", "a small trigger decides what its model answers, so nobody may buy it")
    assert {trial.seller for trial in trading.trials if trial.alpha > 0} == {"A", "B"}
    without = offered(task, models)
    assert without.notices == ()
    assert "C" in {trial.seller for trial in without.trials if trial.alpha > 0}, "only the scan finds it"


@pytest.mark.parametrize("epochs", [1, 3, 10])
def test_models_of_little_training_are_honest(task, epochs):
    model = trained(task, task.agents[0], f"young-{epochs}", epochs)
    sizes = smallest_triggers(model, model.state_dict(), task.broker[0])
    assert not hides_trigger(sizes, 1.5 * SHARE)


def test_a_linear_backdoor_has_a_trigger_of_its_size():
    """One input of eight overrules all others for class 1; the mask needs that one only."""
    model = nn.Linear(8, 3)
    with torch.no_grad():
        model.weight.copy_(torch.zeros(3, 8))
        model.weight[1, 0] = 100.0
        model.weight[2, 1:] = 1.0
        model.bias.copy_(torch.tensor([3.0, 0.0, 0.0]))
    inputs = torch.rand(64, 8, generator=torch.Generator().manual_seed(0)) * (torch.arange(8) > 0)
    sizes = smallest_triggers(model, model.state_dict(), inputs)
    assert sizes.shape == (3,)
    assert sizes[1] < 0.3
    assert sizes[1] < sizes[2]


def test_inputs_that_are_no_numbers_cannot_be_scanned():
    tokens = torch.randint(4, (300, 5)), torch.randint(2, (300,))
    model = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(15, 2))
    broker = Broker(
        model, nn.CrossEntropyLoss(reduction="none"), *split_in_halves(tokens, 0), terms=Terms(trigger_scan=0.3)
    )
    with pytest.raises(MarketError, match="trigger-scan must be 0 for inputs that are not floating-point numbers"):
        broker.open_round({name: model.state_dict() for name in "AB"})
