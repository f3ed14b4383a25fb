"""Whether a prediction is of a case that its model learned from: a score on such a case is no test."""

from __future__ import annotations

import json
from pathlib import Path

from volattn.io.nifti import volume_name


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
    try:
        seen = json.loads(path.read_text(encoding="utf-8")).get("seen_in_training")
        # Where cases are numbered, the same name on another file says nothing.
        return seen is not None and seen["split"] == "training" and seen["known_by"] != "name, not content"
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        raise ValueError(
            f"{path}: is not what `volattn predict` writes beside {prediction.name}; move it elsewhere"
        ) from None
