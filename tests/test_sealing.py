"""Sealed parameters: nobody reads them without the key, and no change goes unnoticed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_market.errors import MarketError
from fl_market.sealing import new_key, seal, unseal

STATE = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.tensor([1, 2], dtype=torch.int64),
    "c": torch.tensor(3.0, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
}


def test_a_key_opens_every_kind_of_tensor_in_the_model_s_own_order():
    key = new_key()
    found = unseal(seal(STATE, key), key)
    assert list(found) == list(STATE)
    for name, tensor in STATE.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)


def test_sealed_bytes_show_no_parameters():
    state = {"weight": torch.zeros(4096)}
    sealed = seal(state, new_key())["weight"]
    counts = torch.bincount(sealed.long(), minlength=256).double()
    assert float(counts.max()) < 2.0 * len(sealed) / 256, "zeros look like noise"
    assert not torch.equal(sealed, seal(state, new_key())["weight"]), "each key gives other bytes"


def changed(name):
    def change(sealed):
        sealed[name][-1] ^= 1

    return change


def swapped(sealed):
    sealed["first"], sealed["second"] = sealed["second"], sealed["first"]


def removed(sealed):
    del sealed["first"]


@pytest.mark.parametrize(
    "attack",
    [changed("first"), changed("second"), swapped, removed, lambda sealed: sealed.update(renamed=sealed.pop("second"))],
)
def test_changes_do_not_open(attack):
    key = new_key()
    sealed = seal({"first": torch.zeros(3), "second": torch.zeros(3)}, key)
    attack(sealed)
    with pytest.raises(MarketError, match="does not open the sealed parameters, or they were changed"):
        unseal(sealed, key)


@given(st.binary(max_size=64))
def test_other_keys_do_not_open(key):
    sealed = seal({"weight": torch.zeros(3)}, new_key())
    with pytest.raises(MarketError, match="does not open"):
        unseal(sealed, key)
