import pytest
import torch
from torch import nn

from fl_market.errors import MarketError
from fl_market.gains import ModelLoss
from fl_market.hardware import CPU, Hardware, channels_last, find_hardware


@pytest.mark.parametrize(
    ("cuda", "device", "precision", "kind", "mixed"),
    [
        (False, "auto", "auto", "cpu", False),
        (False, "cpu", "bfloat16", "cpu", True),
        (True, "auto", "auto", "cuda", True),
        (True, "cuda", "float32", "cuda", False),
        (True, "cpu", "auto", "cpu", False),
    ],
)
def test_the_hardware_of_each_choice(monkeypatch, cuda, device, precision, kind, mixed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert find_hardware(device, precision) == Hardware(torch.device(kind), mixed)


def test_cuda_without_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MarketError, match="device must be cpu or auto on this machine"):
        find_hardware("cuda")


def test_images_are_laid_out_for_convolutions_and_stay_the_same():
    images = torch.randn(2, 3, 4, 5)
    assert torch.equal(channels_last(images), images)
    assert channels_last(images).is_contiguous(memory_format=torch.channels_last)
    assert channels_last(images[0]) is images[0] or torch.equal(channels_last(images[0]), images[0])


def test_mixed_precision_computes_in_bfloat16_and_gives_losses_in_single_precision():
    torch.manual_seed(0)
    model, data = nn.Linear(200, 3), (torch.randn(50, 200), torch.arange(50) % 3)
    losses = [
        ModelLoss(model, nn.CrossEntropyLoss(reduction="none"), hardware=hardware)(model.state_dict(), data)
        for hardware in (CPU, Hardware(mixed=True))
    ]
    assert losses[1].dtype is torch.float32
    assert not torch.equal(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[1], rtol=0.05, atol=0.05)
