"""What was drawn into a phantom, for `truth-N.json`."""

from __future__ import annotations

from volattn.datasets.phantom.make import Phantom


def truth_of(phantom: Phantom, seed: int, index: int, size: int) -> dict[str, object]:
    """Where it is from, its lesions and its distractors, for JSON."""
    return {
        "seed": seed,
        "index": index,
        "size": size,
        "spacing_mm_zyx": list(phantom.spacing),
        "lesions": [finding.as_json() for finding in phantom.findings if finding.kind == "lesion"],
        "distractors": [finding.as_json() for finding in phantom.findings if finding.kind != "lesion"],
    }
