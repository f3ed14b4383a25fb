"""Whether a prediction is of a case that its model learned from: a score on such a case is no test."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from volattn.config import Config
from volattn.io.files import read_json
from volattn.io.nifti import volume_name


class _Seen(Config):
    split: Literal["training", "validation"]
    case: str
    known_by: Literal["content", "name", "name, not content"]


class _Beside(Config):
    """What `predict` writes beside a label map, as far as it is of interest; other programs write JSON too."""

    model_config = ConfigDict(extra="ignore")
    seen_in_training: _Seen | None = None


def trained_on(prediction: Path) -> bool:
    """What `volattn predict` noted in the JSON beside a label map; False if there is none.

    Args:
        prediction: `NAME.nii.gz`.

    Raises:
        ValueError: The JSON is there, but is not one of `predict`'s.
    """
    path = prediction.with_name(f"{volume_name(prediction)}.json")
    if not path.is_file():
        return False
    content = read_json(path)
    try:
        seen = _Beside.parse(content, str(path)).seen_in_training
    except ValueError as error:
        raise ValueError(
            f"{error}; this is not what `volattn predict` writes beside {prediction.name}, move it elsewhere"
        ) from None
    # Where cases are numbered, the same name on another file says nothing.
    return seen is not None and seen.split == "training" and seen.known_by != "name, not content"
