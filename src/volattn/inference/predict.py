"""One CT in, one label map out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from volattn import checkpoints
from volattn.checkpoints import ModelFolder
from volattn.datasets.case import BACKGROUND, LESION, ORGAN
from volattn.datasets.ct_values import check_values
from volattn.inference.link import Linker, paint_chains
from volattn.inference.reader import SliceReader
from volattn.inference.records import LesionRecord, describe_chains, describe_lesions
from volattn.inference.stitch import ORGAN_SCORE, Stitcher
from volattn.inference.stream import SliceDetections, stream
from volattn.io.readers.nifti import read_volume
from volattn.models.architectures import ARCHITECTURES
from volattn.models.bag_backbone import BagBackbone
from volattn.models.segmenters.config import Refinement
from volattn.structures.volume import Volume

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class OrganRecord:
    """The organ.

    Attributes:
        name: As in the data set that the model was trained on.
        volume_ml: With its lesions.
    """

    name: str
    volume_ml: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of a CT.

    Attributes:
        volume: The CT, as it was given or read.
        labels: (z, y, x) uint8 in its file axes: 0 background, 1 organ, 2 lesion. Of a detector of boxes, 2 in the
            boxes on each slice, for pictures: it outlines nothing.
        lesions: (z, y, x) in file axes, one number per 3D lesion from 1, 0 elsewhere; or of boxes, see `labels`.
        masks: Whether the model outlines what it finds.
        records: The lesions, by their numbers.
        organ: None for a model of lesions only, and of boxes.
        threshold: Lesion detections below this score were dropped.
        organ_threshold: The same for the organ.
        notes: What the CT's header leaves in doubt, and what was overlooked, a sentence each.
    """

    volume: Volume
    labels: NDArray[np.uint8]
    lesions: NDArray[np.unsignedinteger]
    masks: bool
    records: tuple[LesionRecord, ...]
    organ: OrganRecord | None
    threshold: float
    organ_threshold: float
    notes: tuple[str, ...] = ()


class Predictor:
    """A model ready to predict.

    Args:
        model: The network; it is moved to the device and put into evaluation mode.
        folder: Its configuration.
        fingerprint: SHA-256 of the model's files, for results; None if it has none yet.
        device: "cpu", "cuda", "cuda:1", ... or "auto": a GPU if there is one.
        batch: 2.5D images encoded at a time; more is faster on a GPU and takes more memory.
        bf16: Mixed precision on a GPU; without effect on a CPU.

    Raises:
        ValueError: The device is not there, or the batch is not positive.
    """

    def __init__(
        self,
        model: BagBackbone,
        folder: ModelFolder,
        *,
        fingerprint: str | None = None,
        device: str = "auto",
        batch: int = 1,
        bf16: bool = False,
    ) -> None:
        if batch < 1:
            raise ValueError(f"the batch must be at least 1, found {batch}")
        self.device = find_device(device)
        self.model = model.to(self.device).eval()
        self.folder = folder
        self.fingerprint = fingerprint
        self.batch = batch
        self.bf16 = bf16 and self.device.type == "cuda"

    @property
    def masks(self) -> bool:
        """Whether the model outlines what it finds; it finds boxes otherwise."""
        return ARCHITECTURES[self.model.config.name].masks

    def predict(
        self,
        volume: Volume | Path | str,
        threshold: float | None = None,
        progress: Progress | None = None,
        *,
        force: bool = False,
    ) -> Prediction:
        """Finds and outlines the lesions of a CT.

        On top of the model and the pyramids of the stream it takes 4 bytes per voxel beside the volume's own 2 or 4
        (int16 or float32), and up to 7 where the box around organ or lesions is most of the volume.

        Args:
            volume: HU, or a NIfTI file.
            threshold: Lesion detections below this score are dropped; the model's own by default.
            progress: Called with (the volume's name, slices done, slices).
            force: Values that cannot be a CT's are taken all the same, with a note.

        Raises:
            ValueError: The file cannot be read, a voxel is NaN or infinite, the values cannot be HU
                (`check_values`), or the threshold is not in [0, 1].
        """
        threshold = self.check_threshold(threshold)
        called = volume.name or "volume" if isinstance(volume, Volume) else str(volume)
        if not isinstance(volume, Volume):
            volume = read_volume(volume)
        note = check_values(volume.array, called, force)
        notes = (*volume.notes, *(() if note is None else (note,)))
        reader = SliceReader(volume, self.folder.plan)
        found = self.detect(reader, range(reader.depth))
        slices = _told(found, lambda done: progress(volume.name, done, reader.depth) if progress else None)
        finish = self._stitched if self.masks else self._linked
        return replace(finish(volume, reader, slices, threshold), notes=notes)

    def detect(self, reader: SliceReader, targets: Sequence[int]) -> Iterator[tuple[int, SliceDetections]]:
        """What is found on some prepared slices of a CT; see `stream`.

        Args:
            reader: Of the CT.
            targets: The slices, each once.
        """
        return stream(
            self.model,
            lambda centres: reader.images(centres, self.model.config.slices, self.device),
            reader.depth,
            targets=targets,
            batch=self.batch,
            device=self.device,
            bf16=self.bf16,
        )

    def _stitched(
        self, volume: Volume, reader: SliceReader, slices: Iterator[tuple[int, SliceDetections]], threshold: float
    ) -> Prediction:
        """The masks of all slices as a label map."""
        stitcher = Stitcher(
            reader.canonical.shape,
            reader.back(),
            reader.filled,
            len(self.folder.classes),
            threshold,
            single_organ=self.folder.single_organ,
        )
        for z, detections in slices:
            stitcher.add(z, detections)
        stitched = stitcher.finish()
        return Prediction(
            volume=volume,
            labels=reader.turn.undo(stitched.labels),
            lesions=reader.turn.undo(stitched.lesions),
            masks=True,
            records=describe_lesions(stitched.lesions, stitched.best, reader, self.model.bag),
            organ=self._organ(stitched.labels, volume),
            threshold=threshold,
            organ_threshold=ORGAN_SCORE,
        )

    def _linked(
        self, volume: Volume, reader: SliceReader, slices: Iterator[tuple[int, SliceDetections]], threshold: float
    ) -> Prediction:
        """The boxes of all slices as lesions; those of an organ say nothing that lesions need."""
        linker = Linker(len(self.folder.classes), threshold, reader.step)
        for z, detections in slices:
            linker.add(z, detections)
        chains = linker.finish()
        lesions = reader.turn.undo(paint_chains(chains, reader))
        return Prediction(
            volume=volume,
            labels=np.where(lesions > 0, np.uint8(LESION), np.uint8(BACKGROUND)),
            lesions=lesions,
            masks=False,
            records=describe_chains(chains, reader, self.model.bag),
            organ=None,
            threshold=threshold,
            organ_threshold=ORGAN_SCORE,
        )

    def check_threshold(self, threshold: float | None) -> float:
        """The threshold that applies.

        Raises:
            ValueError: It is not in [0, 1].
        """
        if threshold is None:
            return self.folder.threshold
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold is a score between 0 and 1, found {threshold}")
        return threshold

    def _organ(self, labels: NDArray[np.uint8], volume: Volume) -> OrganRecord | None:
        if len(self.folder.classes) == 1:
            return None
        voxels = sum(int(np.count_nonzero(plane >= ORGAN)) for plane in labels)
        return OrganRecord(self.folder.classes[0], voxels * volume.geometry.voxel_volume / 1000)


def _told(
    slices: Iterator[tuple[int, SliceDetections]], tell: Callable[[int], None]
) -> Iterator[tuple[int, SliceDetections]]:
    """Tells how many have been taken and dealt with."""
    for done, one in enumerate(slices, start=1):
        yield one
        tell(done)


def load(
    source: Path | str,
    *,
    refinement: Refinement | None = None,
    device: str = "auto",
    batch: int = 1,
    bf16: bool = False,
) -> Predictor:
    """A predictor from a model folder.

    Args:
        source: A run folder of `volattn train`, or "demo" for the weights shipped with the package.
        refinement: "crf" refines a cascade's probabilities, "none" does not; None leaves what the model has.
        device: See `Predictor`, as are `batch` and `bf16`.

    Raises:
        ValueError: It is not a model folder, it cannot be refined, or see `Predictor`.
    """
    model, folder = checkpoints.load_folder(source, refinement)
    return Predictor(model, folder, fingerprint=checkpoints.fingerprint(source), device=device, batch=batch, bf16=bf16)


def find_device(name: str) -> torch.device:
    """The device that a name means.

    Raises:
        ValueError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; use auto, cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there; use cpu, or auto for what there is")
    return device
