"""`scores.json`: what is said of all cases, and then a line for each case."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volattn.io.atomic import write_text
from volattn.provenance import commit, versions

_PAIR = re.compile(r"\[\n\s+([-+.\de]+),\n\s+([-+.\de]+)\n\s+\]")


KEYS = ("kind", "cases")
"""What a file of scores holds in any case: by these it is told from other JSON of this program."""


def write_scores(path: Path | str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes scores, atomically, with the versions and the commit that they depend on.

    Args:
        path: A `.json` file.
        content: Plain values; `cases` is a list of them.

    Returns:
        What `read_scores` gives of the file.

    Raises:
        ValueError: `content` holds NaN or infinity, which JSON cannot say.
    """
    head = {key: value for key, value in content.items() if key != "cases"}
    head |= {"versions": versions(), "commit": commit()}
    whole = json.dumps(head, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    whole = _PAIR.sub(r"[\1, \2]", whole)  # an interval is one line
    lines = [json.dumps(case, ensure_ascii=False, allow_nan=False) for case in content["cases"]]
    cases = ",\n    ".join(lines)
    text = f'{whole},\n  "cases": [\n    {cases}\n  ]\n}}\n'
    write_text(path, text)
    return json.loads(text)


def read_scores(path: Path | str) -> dict[str, Any]:
    """Reads what an evaluation wrote.

    Raises:
        ValueError: The file is missing, is no JSON, or has no cases with different names.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: is not a file; give the scores.json of an evaluation")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON ({error}); give the scores.json of an evaluation") from None
    cases = content.get("cases") if isinstance(content, dict) else None
    if not isinstance(cases, list) or not all(isinstance(case, dict) and "name" in case for case in cases):
        raise ValueError(f"{path}: has no list of cases with names; give the scores.json of an evaluation")
    if len({case["name"] for case in cases}) != len(cases):
        raise ValueError(f"{path}: has two cases of one name; evaluate again")
    return content
