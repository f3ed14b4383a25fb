"""Time and memory of LiTS scoring, beside the way of the challenge's scorer.

    python benchmarks/lits_scoring.py --reference DIR --prediction DIR -o docs/results/speed

Label maps are read first and not counted. The scorer's way is `tests/challenge_scorer.py`: k-d trees for the surfaces
of every pair of masks, whole maps compared for every pair of lesions; both give the same scores, or this fails. Times
are those of the processor, so that other programs on the machine do not count; memory is the peak of what is allocated
(`tracemalloc`, in a run of its own). Then the cost of ours with up to 300 lesions, and with more and more slices.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from volattn.io.files import write_json, write_text
from volattn.io.readers import read_labels
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Table
from volattn.scoring.lits import lits_scheme, score_lits
from volattn.scoring.lits_folders import pool_lits
from volattn.scoring.overlap import LabelPair
from volattn.scoring.pairing import pair_files
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import challenge_scorer

LEAST_FASTER = 10.0
SAME = 1e-6
SCHEME = lits_scheme()
Maps = list[tuple[Volume, Volume]]


def ours(maps: Maps) -> dict[str, Any]:
    """All that `volattn evaluate lits --strict` computes."""
    cases = []
    for number, (reference, prediction) in enumerate(maps):
        pair = LabelPair.of(reference, prediction, (SCHEME, SCHEME), ("reference", "prediction"))
        cases.append(score_lits(str(number), pair, pair.geometry.spacing, strict=True))
    return pool_lits(cases)


def scorers(maps: Maps) -> dict[str, Any]:
    """What the challenge's scorer computes."""
    return challenge_scorer.score(
        (reference.array.T, prediction.array.T, reference.geometry.spacing[::-1]) for reference, prediction in maps
    )


def seconds(score: Callable[[Maps], object], maps: Maps, repeats: int) -> float:
    """Processor time of the quickest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        score(maps)
        times.append(time.process_time() - start)
    return min(times)


def peak_bytes(score: Callable[[Maps], object], maps: Maps) -> int:
    """What was allocated at most at a time on top of the label maps."""
    tracemalloc.start()
    score(maps)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def difference(found: Any, expected: Any) -> float:
    """The largest difference in any shared key."""
    if isinstance(expected, dict):
        return max(difference(found[key], value) for key, value in expected.items())
    return float(np.max(np.abs(np.subtract(found, expected))))


def made(lesions: int, slices: int, side: int = 256) -> Maps:
    """One case: a liver that fills most of the volume with so many lesions, each predicted a voxel off."""
    generator = np.random.default_rng(lesions)
    maps = np.zeros((2, slices, side, side), np.uint8)
    edge = side // 10
    maps[:, 1:-1, edge:-edge, edge:-edge] = 1
    cells = [
        (z, y, x)
        for z in range(2, slices - 5, 5)
        for y in range(edge + 1, side - edge - 12, 12)
        for x in range(edge + 1, side - edge - 12, 12)
    ]
    for index in generator.permutation(len(cells))[:lesions]:
        z, y, x = cells[index]
        maps[0, z : z + 3, y : y + 8, x : x + 8] = 2
        maps[1, z : z + 3, y + 1 : y + 9, x : x + 8] = 2
    geometry = Geometry.aligned((slices, side, side), (2.0, 0.8, 0.8))
    return [(Volume(maps[0], geometry), Volume(maps[1], geometry))]


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="folder of label maps")
    parser.add_argument("--prediction", type=Path, required=True, help="folder of label maps")
    parser.add_argument("--repeats", type=int, default=3, help="of ours (default: %(default)s)")
    parser.add_argument("--lesions", type=int, nargs="+", default=(75, 150, 300))
    parser.add_argument("--slices", type=int, nargs="+", default=(50, 100, 200))
    parser.add_argument("-o", "--out", type=Path, help="folder for lits_scoring.json and .txt")
    options = parser.parse_args()

    pairs = pair_files(options.reference, options.prediction).pairs
    maps = [(read_labels(pair.reference), read_labels(pair.prediction)) for pair in pairs]
    apart = difference(ours(maps), scorers(maps))
    time_ours, time_scorer = seconds(ours, maps, options.repeats), seconds(scorers, maps, 1)
    peak_ours, peak_scorer = peak_bytes(ours, maps), peak_bytes(scorers, maps)
    faster, leaner = time_scorer / time_ours, peak_scorer / peak_ours
    met = apart <= SAME and faster >= LEAST_FASTER and leaner > 1

    by_lesions = [(n, seconds(ours, made(n, 60), options.repeats)) for n in options.lesions]
    by_slices = [(n, seconds(ours, made(50, n), options.repeats)) for n in options.slices]
    tables = (
        Table(
            f"Scoring {len(maps)} cases, reading excluded",
            (Column("Way"), Column("Processor, s", ".2f"), Column("Peak, MiB", ".0f")),
            (("volattn", time_ours, peak_ours / 2**20), ("the challenge's scorer", time_scorer, peak_scorer / 2**20)),
        ),
        _growth("lesions", "60 slices of 256 x 256", by_lesions),
        _growth("slices", "256 x 256, 50 lesions", by_slices),
    )
    text = "\n".join(table.text() for table in tables) + (
        f"\n{faster:.1f} times faster (at least {LEAST_FASTER:g}), {leaner:.1f} times less memory, scores at most "
        f"{apart:.1g} apart: {'met' if met else 'MISSED'}\n"
    )
    print(text)
    if options.out is not None:
        content = {
            "cases": [pair.name for pair in pairs],
            "seconds": {"volattn": time_ours, "scorer": time_scorer},
            "peak_bytes": {"volattn": peak_ours, "scorer": peak_scorer},
            "largest_difference": apart,
            "seconds_by_lesions": dict(by_lesions),
            "seconds_by_slices": dict(by_slices),
            "met": met,
            "versions": versions(),
            "commit": commit(),
        }
        write_json(options.out / "lits_scoring.json", content)
        write_text(options.out / "lits_scoring.txt", text)
    return 0 if met else 1


def _growth(what: str, where: str, measured: list[tuple[int, float]]) -> Table:
    return Table(
        f"Cost by {what} ({where})",
        (Column(what.capitalize()), Column("Processor, s", ".2f"), Column(f"ms per {what[:-1]}", ".2f")),
        tuple((str(count), spent, 1000 * spent / count) for count, spent in measured),
    )


if __name__ == "__main__":
    sys.exit(main())
