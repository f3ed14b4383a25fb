"""`scores.json`: what is said of all cases, and then a line for each case."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volattn.evaluation.score_models import KINDS
from volattn.io.atomic import write_text
from volattn.io.files import read_json
from volattn.io.names import shown
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

    Returns:
        Its content, as `volattn.evaluation.score_models` describes it and no more.

    Raises:
        ValueError: The file cannot be read, a value is missing or is none that an evaluation writes, or two cases have
            one name.
    """
    content = read_json(path)
    kind = content.get("kind") if isinstance(content, dict) else None
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise ValueError(
            f"{path}: holds no scores of {', '.join(KINDS)}; give the scores.json of an evaluation"
        )
    try:
        scores = model.parse(content, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; evaluate again") from None
    names = [case.name for case in scores.cases]
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"{path}: has two cases {shown(twice)}; evaluate again")
    return scores.model_dump(exclude_unset=True)
