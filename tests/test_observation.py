import pytest
import torch
from torch import nn

from fl_market.observation import evaluation_mode, observe


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.ReLU(), nn.Linear(5, 2))


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_modules_are_observed_in_the_order_of_their_calls_with_the_given_parameters(model):
    state = {name: 2 * tensor for name, tensor in copy_of(model).items()}
    inputs, calls = torch.randn(3, 4), []
    observe(model, state, inputs, calls.append, of=["3", "0"])
    assert [call.name for call in calls] == ["0", "3"]
    assert [call.module for call in calls] == [model[0], model[3]]
    assert calls[0].inputs[0] is inputs
    torch.testing.assert_close(calls[0].output, nn.functional.linear(inputs, state["0.weight"], state["0.bias"]))
    assert torch.equal(calls[1].inputs[0], calls[0].output.relu()), "in evaluation mode: no dropout"


def test_a_returned_tensor_takes_the_place_of_the_output(model):
    outputs = []

    def visit(call):
        if call.name == "0":
            return torch.zeros_like(call.output)
        outputs.append(call.output)
        return None

    observe(model, model.state_dict(), torch.randn(3, 4), visit, of=["0", "3"])
    assert torch.equal(outputs[0], model[3].bias.expand(3, 2))


def test_the_model_is_left_as_it_was_also_after_an_error(model):
    before = copy_of(model)
    model.train()
    model[1].eval()

    def visit(call):
        raise ValueError

    with pytest.raises(ValueError):
        observe(model, {name: 2 * tensor for name, tensor in before.items()}, torch.randn(3, 4), visit, of=["0"])
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model(torch.randn(3, 4))  # no hook is left


def test_a_model_without_children_can_be_observed():
    model, calls = nn.Linear(4, 2), []
    observe(model, model.state_dict(), torch.randn(3, 4), calls.append, of=[""])
    assert calls[0].output.shape == (3, 2)


def test_evaluation_mode_ends_with_the_block(model):
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())
