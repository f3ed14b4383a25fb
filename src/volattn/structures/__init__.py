"""Geometry, volumes, boxes, components and lesions: numpy only."""

from volattn.structures.boxes import box_iou, box_overlap
from volattn.structures.geometry import Geometry, Turn, resampled_depth
from volattn.structures.lesions import Lesion, axial_diameter, label_components, measure_lesions, measure_unions
from volattn.structures.volume import Volume, foreground_box

__all__ = [
    "Geometry",
    "Lesion",
    "Turn",
    "Volume",
    "axial_diameter",
    "box_iou",
    "box_overlap",
    "foreground_box",
    "label_components",
    "measure_lesions",
    "measure_unions",
    "resampled_depth",
]
