"""One CT in, its lesions out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volattn import checkpoints
from volattn.checkpoints import ModelFolder
from volattn.datasets.case import BACKGROUND, LESION, ORGAN
from volattn.datasets.ct_values import check_values
from volattn.inference.link import Linker, paint_chains
from volattn.inference.prediction import OrganRecord, Prediction
from volattn.inference.records import LesionRecord, describe_chains, describe_lesions
from volattn.inference.stitch import ORGAN_SCORE, Stitcher
from volattn.inference.stream import SliceReader, SliceResult, stream
from volattn.io.readers import read_volume
from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import Refinement
from volattn.models.precision import Precision
from volattn.structures.volume import Volume
from volattn.workers import Progress


class Predictor:
    """A model ready to predict.

    Args:
        model: The network; it is moved to the device and put into evaluation mode.
        fingerprint: SHA-256 of the model's files, for results; None if it has none yet.
        device: See `find_device`.
        batch: 2.5D images encoded at a time; more is faster on a GPU and takes more memory.
        precision: "fp32" throughout, or automatic mixed precision.

    Raises:
        ValueError: The device is not there, or the batch is not positive.
    """

    def __init__(
        self,
        model: BagBackbone,
        folder: ModelFolder,
        *,
        fingerprint: str | None = None,
        device: str | None = None,
        batch: int = 1,
        precision: Precision = "fp32",
        report_auxiliary: bool = False,
        neighbours: bool = True,
    ) -> None:
        if batch < 1:
            raise ValueError(f"the batch must be at least 1, found {batch}")
        self.device = find_device(device)
        self.model = model.to(self.device).eval()
        self.folder = folder
        self.fingerprint = fingerprint
        self.batch = batch
        self.precision = precision
        self.report_auxiliary = report_auxiliary
        self.neighbours = neighbours

    def __repr__(self) -> str:
        finds = f"finds {' and '.join(self.folder.classes)} as {'masks' if self.masks else 'boxes'}"
        return f"Predictor({self.model.config.name}, bag of {self.model.bag}, {finds}, on {self.device})"

    @property
    def masks(self) -> bool:
        """Whether the model outlines what it finds; it finds boxes otherwise."""
        return self.model.config.output != "boxes"

    @property
    def card(self) -> dict[str, Any]:
        """The model in plain values."""
        folder, provenance = self.folder, self.folder.provenance
        return {
            "sha256": self.fingerprint,
            "classes": list(folder.classes),
            "recipe": None if provenance is None else provenance.recipe,
            "dataset": None if provenance is None else provenance.dataset,
            "phantoms_only": folder.phantoms_only,
            "name": folder.model.name,
            "finds": "masks" if self.masks else "boxes",
            "attention": folder.model.attention_kind,
            "bag": self.model.bag,
            "slice_step_mm": folder.plan.z_spacing,
            "single_organ": folder.single_organ,
        }

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
            force: Accepts values that cannot be a CT's, with a note.

        Raises:
            ValueError: The file cannot be read, a voxel is NaN or infinite, the values cannot be HU
                (`check_values`), or the threshold is not in [0, 1].
        """
        threshold = self.check_threshold(threshold)
        if isinstance(volume, (np.ndarray, torch.Tensor)):
            raise ValueError(
                "an array alone does not say how large its voxels are; give a NIfTI file, or a Volume: "
                "Volume(array, Geometry.aligned(array.shape, spacing)), both (z, y, x), spacing in mm"
            )
        name = volume.name or "volume" if isinstance(volume, Volume) else str(volume)
        if not isinstance(volume, Volume):
            volume = read_volume(volume)
        note = check_values(volume.array, name, force)
        reader = SliceReader(volume, self.folder.plan)
        classes, single_organ = len(self.folder.classes), self.folder.single_organ
        collected: Stitcher | Linker
        if self.masks:
            shape, back = reader.canonical.shape, reader.resampled.back()
            collected = Stitcher(shape, back, reader.filled, classes, threshold, single_organ=single_organ)
        else:
            collected = Linker(classes, threshold, reader.resampled.step)
        step, others = reader.resampled.step, self.model.config.auxiliary_classes if self.report_auxiliary else ()
        auxiliary = {name: Linker(label, threshold, step) for label, name in enumerate(others, start=classes + 1)}
        for done, (z, detections) in enumerate(self.detect(reader, range(reader.depth)), start=1):
            for one in (collected, *auxiliary.values()):
                one.add(z, detections)
            if progress is not None:
                progress(volume.name, done, reader.depth)
        lesion_map: NDArray[np.unsignedinteger]
        lesions: tuple[LesionRecord, ...]
        organ = None
        if isinstance(collected, Stitcher):
            stitched = collected.finish()
            labels, lesion_map = reader.turn.undo(stitched.labels), reader.turn.undo(stitched.lesions)
            lesions = describe_lesions(stitched.lesions, stitched.best, reader, self.model.bag)
            if classes > 1:
                voxels = sum(int(np.count_nonzero(plane >= ORGAN)) for plane in stitched.labels)
                organ = OrganRecord(self.folder.classes[0], voxels * volume.geometry.voxel_volume / 1000)
        else:  # Boxes of an organ do not limit lesions, as its mask does: they are left out.
            chains = collected.finish()
            lesion_map = reader.turn.undo(paint_chains(chains, reader))
            labels = np.where(lesion_map > 0, np.uint8(LESION), np.uint8(BACKGROUND))
            lesions = describe_chains(chains, reader, self.model.bag)
        warning = self.folder.warning
        return Prediction(
            volume=volume,
            labels=labels,
            lesion_map=lesion_map,
            masks=self.masks,
            lesions=lesions,
            organ=organ,
            auxiliary={
                name: describe_chains(linker.finish(), reader, self.model.bag) for name, linker in auxiliary.items()
            },
            threshold=threshold,
            organ_threshold=ORGAN_SCORE,
            notes=(*volume.notes, *(sentence for sentence in (note, warning) if sentence is not None)),
            model=self.card,
            warning=warning,
        )

    def detect(self, reader: SliceReader, targets: Sequence[int]) -> Iterator[tuple[int, SliceResult]]:
        """The detections on some prepared slices of a CT, each given once; see `stream`."""
        return stream(
            self.model,
            lambda centres: reader.images(centres, self.model.config.slices, self.device),
            reader.depth,
            targets=targets,
            batch=self.batch,
            device=self.device,
            precision=self.precision,
            neighbours=self.neighbours,
        )

    def check_threshold(self, threshold: float | None) -> float:
        """The threshold that applies: the given one, or the model's; a ValueError if it is not in [0, 1]."""
        if threshold is None:
            return self.folder.threshold
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold is a score between 0 and 1, found {threshold}")
        return threshold


def load(
    source: Path | str,
    *,
    refinement: Refinement | None = None,
    device: str | None = None,
    batch: int = 1,
    precision: Precision = "fp32",
    report_auxiliary: bool = False,
    neighbours: bool = True,
) -> Predictor:
    """A predictor from a model folder; see `volattn.load`.

    Args:
        neighbours: False hides the slices around each target from attention, a control; see `stream`.
    """
    model, folder = checkpoints.load_folder(source, refinement)
    fingerprint = checkpoints.fingerprint(source)
    return Predictor(
        model,
        folder,
        fingerprint=fingerprint,
        device=device,
        batch=batch,
        precision=precision,
        report_auxiliary=report_auxiliary,
        neighbours=neighbours,
    )


def find_device(name: str | None) -> torch.device:
    """The device that a name means: "auto" is a GPU if there is one.

    Raises:
        ValueError: There is no such device here.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; use auto, cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there; use cpu, or auto for what there is")
    return device
