"""What Decathlon and nnU-Net folders share: a `dataset.json`, `imagesTr` and `labelsTr`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from volattn.datasets.case import Case


def read_description(path: Path) -> dict[str, Any]:
    """Reads a `dataset.json`.

    Raises:
        ValueError: It is missing, is not JSON, or has no labels.
    """
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); correct it") from None
    labels = description.get("labels") if isinstance(description, dict) else None
    if not (isinstance(labels, dict) and labels):
        raise ValueError(f"{path}: has no labels; say there what the label values mean")
    return description


def expected_cases(description: dict[str, Any]) -> int | None:
    """The number of training cases that the description promises, if it says."""
    number = description.get("numTraining")
    return number if isinstance(number, int) else None


def paired_files(root: Path, ending: str, channel: int = 0) -> list[Case]:
    """Pairs `imagesTr/CASE_000C` with `labelsTr/CASE`.

    An image without a label map and a label map without an image are cases too: a check names the gap.

    Args:
        root: The folder that holds `imagesTr` and `labelsTr`.
        ending: `.nii` or `.nii.gz`.
        channel: The number C of the images to take.
    """
    pattern = re.compile(rf"(?!\.)(.+)_{channel:04d}{re.escape(ending)}")
    images = {match[1]: path for path in _files(root / "imagesTr") if (match := pattern.fullmatch(path.name))}
    labels = {
        path.name.removesuffix(ending): path
        for path in _files(root / "labelsTr")
        if path.name.endswith(ending) and not path.name.startswith(".")
    }
    return [
        Case(
            name,
            images.get(name, root / "imagesTr" / f"{name}_{channel:04d}{ending}"),
            labels.get(name),
        )
        for name in images.keys() | labels.keys()
    ]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
