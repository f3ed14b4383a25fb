"""What a model finds in a CT, and the one way to write it: label maps, JSON and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from volattn.inference.records import AXES, LesionRecord
from volattn.io.files import write_json
from volattn.io.names import count_of
from volattn.io.output import check_replaceable, claim_folder
from volattn.io.readers import write_labels
from volattn.provenance import commit, versions
from volattn.report.outlines import draw_outlines
from volattn.structures.volume import Volume

_CONVENTIONS = {
    "voxels": (
        f"indices into the file's array in the order {AXES} (NIfTI's i, j, k reversed), from 0; boxes are half-open"
    ),
    "lps_mm": "x to the patient's left, y to the back, z to the head; the bounds include the voxels' edges",
    "key_slice": (
        "the slice with the long axis (of boxes: with the highest score), along the file's slice axis and counted from "
        "the feet"
    ),
    "bag": (
        "centres of the slices that gave context to the lesion's best detection, with the attention that "
        "each got (mean over the pyramid's levels); model slices are resampled ones, counted from the feet"
    ),
}


class Files(NamedTuple):
    """What is written for one CT; no label maps by a detector of boxes.

    The JSON is written last, so that its presence says that the others are complete.
    """

    json: Path
    picture: Path
    labels: Path | None
    lesions: Path | None

    @classmethod
    def of(cls, out: Path, name: str, masks: bool) -> Files:
        maps = (out / f"{name}.nii.gz", out / f"{name}_lesions.nii.gz") if masks else (None, None)
        return cls(out / f"{name}.json", out / f"{name}.png", *maps)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in self if path is not None)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Removes all of them, new and of an earlier run, if the block that writes them fails."""
        self.json.unlink(missing_ok=True)  # Its presence would vouch for the others, which are about to change.
        try:
            yield
        except BaseException:
            for path in self.paths:
                path.unlink(missing_ok=True)
            raise


@dataclass(frozen=True)
class OrganRecord:
    """The organ, by its name in the training data; its volume includes its lesions."""

    name: str
    volume_ml: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model finds in a CT.

    Attributes:
        volume: The CT, as it was given or read.
        labels: (z, y, x) uint8 in its file axes: 0 background, 1 organ, 2 lesion. Of a detector of boxes, 2 in the
            boxes on each slice, for pictures only.
        lesion_map: (z, y, x) in file axes, one number per 3D lesion from 1, 0 elsewhere; or of boxes, see `labels`.
        masks: Whether the model outlines what it finds.
        lesions: By their numbers in the map.
        organ: None for a model of lesions only, and of boxes.
        auxiliary: What was found of the model's auxiliary classes, by their names, if that was asked for: boxes that
            follow each other through the slices.
        threshold: Lesion detections below this score were dropped.
        organ_threshold: The same for the organ.
        notes: Doubts about the CT's header or values, and what the reader must know of the model, a sentence each.
        model: The model in plain values, as in the JSON.
        warning: That the model is not for patients, if it is not.
    """

    volume: Volume
    labels: NDArray[np.uint8]
    lesion_map: NDArray[np.unsignedinteger]
    masks: bool
    lesions: tuple[LesionRecord, ...]
    organ: OrganRecord | None
    auxiliary: Mapping[str, tuple[LesionRecord, ...]]
    threshold: float
    organ_threshold: float
    notes: tuple[str, ...]
    model: Mapping[str, Any]
    warning: str | None = None

    def __repr__(self) -> str:
        organ = "" if self.organ is None else f", {self.organ.name} {self.organ.volume_ml:.1f} ml"
        found = count_of(len(self.lesions), "lesion")
        return f"Prediction({self.volume.name or 'volume'}: {found}{organ}, threshold {self.threshold:g})"

    def save(self, folder: Path | str, *, name: str | None = None, picture: bool = False) -> Files:
        """Writes the files of `volattn predict`: `NAME.nii.gz`, `NAME_lesions.nii.gz` and `NAME.json`.

        Args:
            folder: Made if it is not there.
            name: The volume's by default.
            picture: Also writes `NAME.png`.

        Raises:
            ValueError: A file of that name is there and not of this program, or the folder cannot be written.
        """
        name = name or self.volume.name or "volume"
        files = Files.of(Path(folder), name, self.masks)
        record = dict.fromkeys(("fingerprint", "file", "reference", "seen_in_training", "settings"))
        with claim_folder(folder):
            check_replaceable(files.paths)
            self.write(files, {"name": name, **record, "notes": list(self.notes)}, picture=picture)
        return files

    def write(
        self,
        files: Files,
        record: Mapping[str, Any],
        *,
        picture: bool = True,
        reference: NDArray[np.uint8] | None = None,
    ) -> None:
        """Writes all files or none, the JSON last.

        Args:
            files: In a folder that the caller has claimed.
            record: The first keys of the JSON: name, settings and so on.
            reference: (z, y, x) 0, 1 organ, 2 lesion in file axes, for the picture.
        """
        with files.all_or_none():
            if picture:
                self._draw(files.picture, reference)
            else:
                files.picture.unlink(missing_ok=True)
            if files.labels is not None and files.lesions is not None:
                write_labels(files.labels, self.labels, self.volume)
                write_labels(files.lesions, self.lesion_map, self.volume)
            write_json(files.json, {**record, **self.as_json()})

    def as_json(self) -> dict[str, Any]:
        """Plain values of the prediction and of the model behind it; nothing that identifies the patient."""
        geometry = self.volume.geometry
        organ = None if self.organ is None else {"name": self.organ.name, "volume_ml": round(self.organ.volume_ml, 6)}
        single_organ = self.model["single_organ"]
        auxiliary = {name: [one.as_json() for one in found] for name, found in self.auxiliary.items()}
        return {
            "model": {key: value for key, value in self.model.items() if key != "single_organ"},
            "grid": {
                "axes": AXES,
                "shape": list(geometry.shape),
                "spacing_mm": [round(spacing, 6) for spacing in geometry.spacing],
            },
            "conventions": _CONVENTIONS,
            "threshold": self.threshold,
            "organ_threshold": self.organ_threshold,
            "single_organ": single_organ,
            "organ": organ,
            "lesions": [lesion.as_json() for lesion in self.lesions],
            **({"auxiliary": auxiliary} if auxiliary else {}),
            "versions": versions(),
            "commit": commit(),
        }

    def _draw(self, path: Path, reference: NDArray[np.uint8] | None) -> None:
        volume, turn = self.volume, self.volume.geometry.turn()
        draw_outlines(
            path,
            turn.apply(volume.array),
            turn.apply(self.labels),
            turn.apply(self.lesion_map),
            volume.canonical().geometry.spacing,
            scores=[lesion.score for lesion in self.lesions],
            reference=None if reference is None else turn.apply(reference),
            organ=None if self.organ is None else self.organ.name,
            title=volume.name,
            footer=self.warning or "",
        )
