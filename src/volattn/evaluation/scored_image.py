"""What the detections of one image hit: all that a curve over many images needs, without the boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ScoredDetection:
    """One detection.

    Attributes:
        score: How certain it is.
        lesions: The lesions of its image that it hits, by their place; none makes it a false positive.
        matched: The one lesion that it is matched to one to one, for average precision; None if there is none.
        label: Its class.
    """

    score: float
    lesions: tuple[int, ...] = ()
    matched: int | None = None
    label: int = 0

    def as_json(self) -> float | dict[str, Any]:
        """Plain values; most are false positives of the only class, and those are their bare score."""
        if not self.lesions and self.matched is None and not self.label:
            return self.score
        content: dict[str, Any] = {
            "score": self.score,
            "lesions": list(self.lesions),
            "matched": self.matched,
        }
        return content | {"label": self.label} if self.label else content

    @classmethod
    def from_json(cls, content: float | dict[str, Any]) -> ScoredDetection:
        """The other way round."""
        if not isinstance(content, dict):
            return cls(float(content))
        return cls(
            float(content["score"]), tuple(content["lesions"]), content["matched"], content.get("label", 0)
        )


@dataclass(frozen=True)
class ScoredImage:
    """One image: a key slice of DeepLesion, or a whole scan.

    Attributes:
        name: Unique.
        patient: Images of one patient are drawn together by the bootstrap.
        lesions: For each lesion the groups it belongs to, e.g. {"size": "<10 mm"}.
        detections: In descending order of scores; the order among equal scores is part of the record.
        labels: The class of each lesion; empty if there is one class only.
    """

    name: str
    patient: str
    lesions: tuple[Mapping[str, str], ...]
    detections: tuple[ScoredDetection, ...]
    labels: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        content: dict[str, Any] = {
            "name": self.name,
            "patient": self.patient,
            "lesions": [dict(lesion) for lesion in self.lesions],
            "detections": [detection.as_json() for detection in self.detections],
        }
        return content | {"labels": list(self.labels)} if self.labels else content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ScoredImage:
        """The other way round.

        Raises:
            KeyError: A key is missing.
        """
        return cls(
            content["name"],
            content["patient"],
            tuple(content["lesions"]),
            tuple(map(ScoredDetection.from_json, content["detections"])),
            tuple(content.get("labels", ())),
        )
