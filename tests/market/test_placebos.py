"""Placebo sellers."""

import torch
from torch import nn

from fl_market.market.placebos import TINY, placebos
from fl_market.seeds import reproducible


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 3)).double()


def drawn(model, own, seed=0):
    with reproducible(seed, "placebos"):
        return dict(placebos(model, own))


def test_they_have_the_buyers_shape_and_nothing_of_its_parameters():
    model = network()
    own = {name: 5 * tensor.detach().clone() + 1 for name, tensor in model.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in (own | model.state_dict()).items()}
    made = drawn(model, own)
    assert list(made) == ["untrained", "zeros", "noise"]
    parameters = dict(model.named_parameters())
    for name, seller in made.items():
        assert list(seller) == list(own)
        for key, tensor in seller.items():
            assert (tensor.shape, tensor.dtype) == (own[key].shape, own[key].dtype)
            if key not in parameters:
                assert torch.equal(tensor, own[key]), "buffers are the buyer's own"
            elif tensor.numel() > 40:
                both = torch.stack([tensor.flatten(), own[key].flatten()])
                assert abs(float(torch.corrcoef(both)[0, 1])) < 0.15, (name, key)
    assert all(torch.equal(before[name], tensor) for name, tensor in (own | model.state_dict()).items())


def test_zeros_are_tiny_noise_has_the_buyers_norm_and_untrained_has_the_initial_one():
    model = network()
    own = {name: 5 * tensor.detach() for name, tensor in model.state_dict().items()}
    made = drawn(model, own)
    for key, _ in model.named_parameters():
        assert 0 < float(made["zeros"][key].abs().max()) < 10 * TINY
        torch.testing.assert_close(made["noise"][key].norm(), own[key].norm())
    torch.testing.assert_close(made["untrained"]["1.weight"], torch.ones(40).double(), msg="BatchNorm starts at 1")
    assert 0.5 < float(made["untrained"]["0.weight"].norm() / model.state_dict()["0.weight"].norm()) < 2


def test_the_seed_decides_them():
    model = network()
    own = model.state_dict()
    one, again, other = drawn(model, own), drawn(model, own), drawn(model, own, seed=1)
    for name in one:
        assert all(torch.equal(one[name][key], again[name][key]) for key in own)
        assert not torch.equal(one[name]["0.weight"], other[name]["0.weight"])


def test_noise_of_absurd_parameters_is_finite():
    """An agent with such parameters must not end the round of all others."""
    model = network().float()
    for scale in (1e25, 3e38):
        own = {name: torch.full_like(tensor.float(), scale) for name, tensor in model.state_dict().items()}
        for seller in drawn(model, own).values():
            assert all(bool(torch.isfinite(tensor).all()) for tensor in seller.values())
