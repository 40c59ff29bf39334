"""Sealed parameters: a model that its receiver can read only with the key.

A buyer acknowledges the sealed model before it gets the key, and gets the key once it has paid.
Each tensor is encrypted by itself with ChaCha20-Poly1305 (RFC 8439), so that no copy of the whole
model is made. A key is used for one model only; the place of a tensor is therefore a safe nonce.
"""

from collections.abc import Iterable

import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fl_market.errors import MarketError
from fl_market.parameters import StateDict

NONCE_BYTES = 12


def new_key() -> bytes:
    """Return a random key of 32 bytes, for one model."""
    return ChaCha20Poly1305.generate_key()


def seal(state: StateDict, key: bytes) -> dict[str, Tensor]:
    """Return a model in which each tensor is encrypted.

    Parameters
    ----------
    state
        Parameters of the model.
    key
        A key that was used for no other model.

    Returns
    -------
    dict
        Name -> bytes, a tensor of type uint8. Names are no secret, and each tensor belongs to its
        name and place.

    Examples
    --------
    >>> key = new_key()
    >>> unseal(seal({"weight": torch.tensor([1.0, 2.0])}, key), key)["weight"].tolist()
    [1.0, 2.0]
    """
    cipher, nonces, sealed = ChaCha20Poly1305(key), _nonces(state), {}
    for name, tensor in state.items():
        plain = save({"": tensor.detach().cpu().contiguous()})
        hidden = cipher.encrypt(nonces[name], plain, name.encode())
        sealed[name] = torch.frombuffer(bytearray(hidden), dtype=torch.uint8)
    return sealed


def unseal(sealed: StateDict, key: bytes) -> dict[str, Tensor]:
    """Return the model that :func:`seal` encrypted.

    Raises
    ------
    MarketError
        If the key does not fit, or a tensor was changed, renamed, added or removed before another.
    """
    nonces, state = _nonces(sealed), {}
    try:
        cipher = ChaCha20Poly1305(key)
        for name, hidden in sealed.items():
            state[name] = load(cipher.decrypt(nonces[name], hidden.numpy().tobytes(), name.encode()))[""]
    except (InvalidTag, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise MarketError("the key does not open the sealed parameters, or they were changed") from error
    return state


def _nonces(names: Iterable[str]) -> dict[str, bytes]:
    """Return the nonce of each tensor: its place among all, in the order of names."""
    return {name: place.to_bytes(NONCE_BYTES, "big") for place, name in enumerate(sorted(names))}
