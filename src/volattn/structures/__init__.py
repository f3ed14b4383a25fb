"""Geometry, volumes, boxes, components and lesions: numpy only."""

from volattn.structures.boxes import Boxes
from volattn.structures.components import label_components
from volattn.structures.crop import foreground_box
from volattn.structures.geometry import Geometry, Turn, resampled_depth
from volattn.structures.lesions import Lesion, axial_diameter, measure_lesions, measure_unions
from volattn.structures.volume import Volume

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
