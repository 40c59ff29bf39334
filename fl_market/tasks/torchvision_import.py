"""Import torchvision's Python part (datasets, transforms, models) also beside a CPU-only torch.

The published torchvision wheel is a CUDA build. Beside a CPU build of torch, its compiled operators
do not load, and the import fails at the first operator with a fake kernel: "operator
torchvision::nms does not exist". Declaring the schemas of those two operators first lets the import
pass; only calling them would fail.
"""

import sys
from functools import cache
from types import ModuleType

import torch

_SCHEMAS = ("nms", "qnms")


def import_torchvision() -> ModuleType:
    """Return the torchvision package; declare its operators only if the import fails."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_operators()
        import torchvision
    return torchvision  # type: ignore[no-any-return]


@cache  # the library lives as long as it is referenced
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(f"{schema}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library
