"""The page of what `gpu.py` found."""

from __future__ import annotations

from typing import Any

from volattn.report.pages import Column, Table

Found = dict[str, Any]

TITLES = {
    "tests": "Tests: a GPU computes what the CPU does",
    "inputs": "What the measurements read",
    "steps": "A training step of `lits`",
    "predictions": "A CT, file to files",
    "attention": "What attention takes",
    "learning": "Training from new weights",
}
_SAYS = {
    "tests": "`pytest -m cuda`, convolutions without TF32; everywhere else PyTorch's defaults hold.",
    "inputs": "Made on the processor beside the tests.",
    "steps": "New weights, a learning rate of 1e-9. Medians; seconds for all targets of a step. In memory: the slabs "
    "are read before, the largest of an epoch.",
    "predictions": "New weights: as many detections a slice as the network may have, none above the threshold. In the "
    "stream: slices a second without reading and writing the files. torchvision's is its Mask R-CNN with the same "
    "backbone, on the same slices as images, its forward alone.",
    "attention": "Milliseconds a slice of a random volume, in batches of 4, the GPU awaited after each function. "
    "Share: of describe and attend in the four. Whole stream, with and without attention: medians, not awaited.",
    "learning": "`tiny`, the network of the demo, on phantoms. Losses are means over the first and the last steps.",
}
_MEMORY = (("allocated_gib", "GiB", ".2f"), ("reserved_gib", "GiB reserved", ".2f"))
_COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "inputs": (("what", "What", ""), ("seconds", "s", ".1f")),
    "steps": (
        ("precision", "Precision", ""),
        ("slabs", "Slabs", ""),
        ("seconds_a_step", "s a step", ".3f"),
        ("slowest", "slowest", ".3f"),
        ("steps", "steps", "d"),
        ("targets_a_step", "targets a step", ".1f"),
        ("skipped_steps", "skipped by the scaler", "d"),
        *_MEMORY,
    ),
    "predictions": (
        ("program", "Program", ""),
        ("precision", "Precision", ""),
        ("batch", "batch", "d"),
        ("slices_a_second", "slices a second", ".1f"),
        ("in_the_stream", "in the stream", ".1f"),
        ("seconds", "s", ".1f"),
        *_MEMORY,
    ),
    "attention": (
        ("precision", "Precision", ""),
        ("bag", "N", "d"),
        ("encode_ms", "encode", ".2f"),
        ("describe_ms", "describe", ".2f"),
        ("attend_ms", "attend", ".2f"),
        ("detect_ms", "detect", ".2f"),
        ("share", "share", ".1%"),
        ("whole_ms", "whole stream", ".2f"),
        ("without_ms", "without attention", ".2f"),
    ),
    "learning": (
        ("precision", "Precision", ""),
        ("steps", "steps", "d"),
        ("of", "of", "d"),
        ("seconds_a_step", "s a step", ".3f"),
        ("loss_before", "loss before", ".3f"),
        ("loss_after", "after", ".3f"),
        ("validation_lesion_dice", "lesion Dice", ".3f"),
        ("validation_organ_dice", "liver Dice", ".3f"),
        *_MEMORY,
    ),
}


def page(found: Found) -> str:
    """Markdown: where it ran, then each part with its table and what failed or was left out."""
    device = found["device"]
    lines = ["# On a GPU" if device["kind"] != "cpu" else "# No GPU: a trial on a processor", ""]
    lines += [f"`{found['command']}`", ""]
    if device["kind"] == "cpu":
        lines += ["These numbers say nothing of a GPU.", ""]
    lines += [_sentence("Device", device), "", _sentence("Versions", found["versions"]), ""]
    lines += [f"Commit {found['commit'] or 'unknown'}; {found['seconds']:.0f} s in all.", ""]
    for name, part in found["parts"].items():
        lines += [f"## {TITLES[name]}", "", _SAYS[name], "", *_part(name, part), ""]
    lines += ["Every row with all its numbers: [results.json](results.json).", ""]
    return "\n".join(lines)


def _sentence(what: str, values: Found) -> str:
    return f"{what}: {', '.join(f'{key} {value}' for key, value in values.items() if value is not None)}."


def _part(name: str, part: Found) -> list[str]:
    lines, rows = [], part["rows"]
    measured = [row for row in rows if "error" not in row and "skipped" not in row]
    if name == "tests":
        counts = {kind: sum(row["outcome"] == kind for row in rows if "outcome" in row) for kind in _OUTCOMES}
        lines += [", ".join(f"{count} {kind}" for kind, count in counts.items()) + ".", ""]
    elif measured:
        columns = _COLUMNS[name]
        table = Table(
            f"{TITLES[name]}".replace("`", ""),
            tuple(Column(title, form) for _, title, form in columns),
            tuple(tuple(row.get(key) for key, _, _ in columns) for row in measured),
        )
        lines += ["```", table.text().rstrip(), "```", ""]
    for row in rows:
        for problem in ("error", "skipped"):
            if problem in row:
                keys = ", ".join(str(row[key]) for key in row if key not in ("error", "skipped", "outcome", "seconds"))
                lines.append(f"- {keys}: {'failed' if problem == 'error' else 'skipped'}, {row[problem]}")
    if part["outcome"] != "done":
        lines.append(f"- This part: {part['outcome']}.")
    return lines


_OUTCOMES = ("passed", "failed", "skipped")
