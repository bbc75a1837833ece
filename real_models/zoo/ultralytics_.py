"""ultralytics: detection, segmentation and classification networks from their published layouts."""

from functools import partial

from torch import nn

from real_models.zoo.case import add, load, words
from real_models.zoo.draw import images

LAYOUTS = words("""
    yolov8n yolo11n yolov5n yolov10n yolov3-tiny yolov8n-seg yolov8n-cls yolo12n yolov9t
""")


def yolo(layout: str) -> nn.Module:
    tasks = load("ultralytics.nn.tasks")
    kinds = {"seg": tasks.SegmentationModel, "cls": tasks.ClassificationModel}
    make = kinds.get(layout.rpartition("-")[2], tasks.DetectionModel)
    return make(f"{layout}.yaml", verbose=False)


for layout in LAYOUTS:
    add(f"ultra.{layout}", partial(yolo, layout), images(64, 4))
