"""Geometry, volumes, boxes, components and lesions: numpy only."""

from volattn.structures.boxes import Boxes
from volattn.structures.components import label_components
from volattn.structures.geometry import Geometry, Turn, resampled_depth
from volattn.structures.lesions import Lesion, axial_diameter, measure_lesions
from volattn.structures.volume import Volume

__all__ = [
    "Boxes",
    "Geometry",
    "Lesion",
    "Turn",
    "Volume",
    "axial_diameter",
    "label_components",
    "measure_lesions",
    "resampled_depth",
]
