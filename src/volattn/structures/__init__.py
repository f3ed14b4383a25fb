"""Geometry, volumes, boxes, components and lesions: numpy only."""

from volattn.structures.boxes import Boxes
from volattn.structures.geometry import Geometry, Turn, resampled_depth
from volattn.structures.lesions import Lesion, axial_diameter, label_components, measure_lesions, measure_unions
from volattn.structures.volume import Volume, foreground_box

__all__ = [
    "Boxes",
    "Geometry",
    "Lesion",
    "Turn",
    "Volume",
    "axial_diameter",
    "foreground_box",
    "label_components",
    "measure_lesions",
    "measure_unions",
    "resampled_depth",
]
