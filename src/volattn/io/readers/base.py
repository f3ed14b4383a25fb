"""What a format of CT volumes has to give: a reader, and the headers that it finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume


@dataclass(frozen=True, eq=False, kw_only=True)
class VolumeHeader(ABC):
    """A volume of which the header was read and no voxel.

    Attributes:
        shape: Voxels (z, y, x) in file axes.
        geometry: The grid, LPS mm; None if the header does not describe one.
        faults: What is wrong with the geometry, each with what to do; empty if nothing is.
        notes: What the header leaves in doubt, a sentence each, and how it was read.
    """

    path: Path
    shape: tuple[int, int, int]
    geometry: Geometry | None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def stated_spacing(self) -> tuple[float, float, float] | None:
        """mm (z, y, x) in file axes where the header states it apart from the geometry; None where it does not."""
        return None

    @abstractmethod
    def read_image(self) -> np.ndarray:
        """The voxels as HU, (z, y, x) in file axes: int16 where they are whole numbers and fit, else float32.

        NaN and infinity are left for the caller to judge.

        Raises:
            ValueError: They cannot be read, or take far more memory than the header promises.
        """

    @abstractmethod
    def read_labels(self) -> np.ndarray:
        """The voxels as labels, (z, y, x) in file axes, in the smallest of uint8, int16 and int32 that holds them.

        Raises:
            ValueError: They cannot be read, or are no whole numbers.
        """


class Reader(ABC):
    """A format of volumes; an instance in `volattn.io.readers.READERS` makes every command read it.

    Attributes:
        name: As messages call the format, e.g. "NIfTI".
        endings: Of its files' names, in small letters; a case is called by what is left of the name.
    """

    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]

    def can_read(self, path: Path) -> bool:
        """Whether a file or folder is of this format; by its name unless overridden."""
        return path.name.lower().endswith(self.endings)

    @abstractmethod
    def inspect(self, path: Path) -> VolumeHeader:
        """Reads a header; sizes are judged here, before anything of that size is read.

        A wrong geometry is listed in the header's `faults`.

        Raises:
            ValueError: The voxels cannot or must not be read; one line with the file and the way out.
        """

    def write(self, path: Path, array: np.ndarray, like: Volume) -> None:
        """Writes numbers (z, y, x) on the grid of `like`, atomically; formats that are only read refuse.

        Raises:
            ValueError: The format cannot be written.
        """
        raise ValueError(f"{path}: the format {self.name} is read and not written; give a name that ends in .nii.gz")
