"""Import torchvision beside a torch without its compiled operators.

A torchvision wheel carries operators that are built for one torch build. Beside any other, `import torchvision` stops
at "operator torchvision::nms does not exist", and so does every library that imports it. Two operators declared
beforehand, and a plain `nms`, are all that the models here need; their training path calls nothing else compiled.
"""

import functools
import importlib
import importlib.util
from types import ModuleType

import torch
from torch import Tensor


@functools.cache
def stand_in_for_torchvision() -> torch.library.Library | None:
    """Declare the missing operators and import torchvision; None where it is absent or complete."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")  # kept alive by the cache: its operators go when it goes
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", suppress_overlaps, "CPU")
    importlib.import_module("torchvision")
    for name in ("torchvision.extension", "torchvision.ops.boxes", "torchvision.ops.roi_align"):
        module: ModuleType = importlib.import_module(name)
        if hasattr(module, "_assert_has_ops"):
            module._assert_has_ops = lambda: None  # type: ignore[attr-defined]
    return library


def suppress_overlaps(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: the best box stays, what overlaps it by more than the threshold goes, and so on."""
    left, top, right, bottom = boxes.unbind(1)
    area = (right - left) * (bottom - top)
    order = scores.argsort(descending=True, stable=True)
    keep: list[Tensor] = []
    while order.numel():
        best, rest = order[0], order[1:]
        keep.append(best)
        width = (torch.minimum(right[best], right[rest]) - torch.maximum(left[best], left[rest])).clamp(min=0)
        height = (torch.minimum(bottom[best], bottom[rest]) - torch.maximum(top[best], top[rest])).clamp(min=0)
        shared = width * height
        order = rest[shared / (area[best] + area[rest] - shared) <= iou_threshold]
    return torch.stack(keep) if keep else order
