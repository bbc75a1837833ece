"""The list: `build("tv.resnet18")` gives a Case, `names()` says what there is. Libraries wait until they are needed."""

from pathlib import Path

from real_models.zoo import (  # noqa: F401  each puts its models on the list
    diffusers_,
    fastai_,
    geometric_,
    lucidrains_,
    monai_,
    open_clip_,
    others,
    peft_,
    pytorchcv_,
    reinforcement_,
    segmentation_,
    timm_,
    torch_,
    torchvision_,
    transformers_other,
    transformers_text,
    transformers_vision,
    ultralytics_,
    vit_pytorch_,
)
from real_models.zoo.case import ENTRIES, Case, build, library
from real_models.zoo.published import PUBLISHED

__all__ = ["PUBLISHED", "Case", "build", "library", "names", "public_names"]


def names() -> list[str]:
    """Every name on the list, in order."""
    return list(ENTRIES)


def public_names() -> list[str]:
    """The sixty that are checked at every slow run."""
    return (Path(__file__).parents[1] / "public.txt").read_text().split()
