import pytest
import torch
from torch import nn

from fl_market.errors import MarketError
from fl_market.merging import fit_simplex, interpolate, merge_many, only_layers
from fl_market.merging.fine_tuning import fine_tune
from fl_market.parameters import check_parameters, copied, digest, load_parameters
from fl_market.permutation import apply_permutation, derive_spec, match
from fl_market.tasks.torchvision_import import import_torchvision

TEMPLATE = {"w": torch.zeros(2, 3), "n": torch.tensor(1)}


@pytest.mark.parametrize(
    ("received", "complaint"),
    [
        ({"w": torch.zeros(2, 3)}, "lack 'n'"),
        (TEMPLATE | {"x": torch.zeros(1)}, "contain 'x'"),
        (TEMPLATE | {"w": torch.zeros(3, 2)}, r"^'w' must have shape \(2, 3\); got \(3, 2\)$"),
        (TEMPLATE | {"w": torch.zeros(2, 3, dtype=torch.float64)}, "dtype torch.float32; got torch.float64"),
        (TEMPLATE | {"w": torch.full((2, 3), float("nan"))}, "NaN"),
        (TEMPLATE | {"w": torch.full((2, 3), float("inf"))}, "infinite"),
    ],
)
def test_a_state_dict_that_could_not_be_loaded_is_refused(received, complaint):
    with pytest.raises(MarketError, match=complaint):
        check_parameters(received, TEMPLATE)


def test_a_state_dict_that_fits_passes():
    check_parameters({"n": torch.tensor(5), "w": torch.ones(2, 3)}, TEMPLATE)


def test_the_digest_sees_names_shapes_and_values_but_not_their_order():
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True)}
    assert digest(state) == digest({"b": torch.tensor(True), "a": torch.arange(6.0).reshape(2, 3)})
    others = [
        {"a": torch.arange(6.0).reshape(3, 2), "b": torch.tensor(True)},
        {"a": torch.arange(6.0).reshape(2, 3), "c": torch.tensor(True)},
        {"a": torch.arange(6.0).reshape(2, 3) + 1e-6, "b": torch.tensor(True)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(False)},
    ]
    assert len({digest(state), *map(digest, others)}) == 5


class Versioned(nn.Linear):
    """A layer that rejects a state dict of another or no version, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *arguments):
        if metadata.get("version") != 2:
            raise ValueError("the version is unknown")
        super()._load_from_state_dict(state, prefix, metadata, *arguments)


def test_a_state_dict_without_versions_is_loaded_as_one_of_the_models_own():
    one, other = (nn.Sequential(Versioned(3, 4)) for _ in range(2))
    plain = dict(one.state_dict())
    with pytest.raises(ValueError, match="version is unknown"):
        other.load_state_dict(plain)
    load_parameters(other, plain)
    assert digest(other.state_dict()) == digest(plain)


def test_a_state_dict_with_versions_keeps_them():
    state = nn.Sequential(Versioned(3, 4)).state_dict()
    state._metadata["0"]["version"] = 1
    with pytest.raises(ValueError, match="version is unknown"):
        load_parameters(nn.Sequential(Versioned(3, 4)), copied(state))


@pytest.mark.parametrize("change", [lambda state: state.pop("bias"), lambda state: state.update(more=torch.zeros(1))])
def test_loading_is_strict(change):
    state = dict(nn.Linear(3, 4).state_dict())
    change(state)
    with pytest.raises(RuntimeError, match=r"bias|more"):
        load_parameters(nn.Linear(3, 4), state)


def test_a_copy_is_a_new_dict_of_the_same_tensors():
    state = nn.Linear(3, 4).state_dict()
    copy = copied(state)
    assert copy is not state
    assert copy._metadata == state._metadata
    assert all(copy[name] is tensor for name, tensor in state.items())
    assert type(copied({"w": torch.zeros(1)})) is dict


def square(state, data):
    return sum(tensor.square().sum() for tensor in state.values()).expand(len(data[0]))


def test_all_that_makes_state_dicts_keeps_the_versions_of_the_buyer():
    model, seller = (nn.Sequential(Versioned(3, 4), nn.ReLU(), Versioned(4, 2)) for _ in range(2))
    own, other, samples = model.state_dict(), seller.state_dict(), (torch.zeros(10, 1),)
    spec = derive_spec(model, torch.zeros(2, 3))
    weights = fit_simplex(own, [other], square, samples, steps=2)
    for made in (
        interpolate(own, other, 0.5),
        apply_permutation(spec, match(spec, own, other), other),
        only_layers(own, other, ("0",)),
        merge_many(own, [other], weights),
        fine_tune(own, square, samples, steps=2),
    ):
        model.load_state_dict(made)


def test_a_merged_mnasnet_can_be_loaded():
    """Its state dict is refused without its version; messages carry none."""
    import_torchvision()
    from torchvision.models import mnasnet0_5

    torch.manual_seed(0)
    one, other, third = (mnasnet0_5(weights=None).eval() for _ in range(3))
    merged = interpolate(one, other, 0.5)
    third.load_state_dict(merged)
    message = dict(merged)
    with pytest.raises(ValueError, match="version"):
        third.load_state_dict(message)
    load_parameters(third, message)
    assert digest(third.state_dict()) == digest(merged)
    assert third(torch.zeros(2, 3, 32, 32)).isfinite().all()
