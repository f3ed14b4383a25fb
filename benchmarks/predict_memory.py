"""Peak memory of a prediction, at 100 and at 400 slices.

    python benchmarks/predict_memory.py -m demo -o docs/results/speed

Each prediction runs in a process of its own, which reports its peak resident memory (`ru_maxrss`) before and after.
On top of the model and the few pyramids of the stream a prediction may take 8 bytes per voxel of an int16 or
float32 input: from the two depths follows what a voxel costs, everything that does not grow with the depth cancelling
out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from volattn import checkpoints
from volattn.inference.predict import load
from volattn.io.files import write_json, write_text
from volattn.io.readers import write_volume
from volattn.phantoms.make import make_phantom
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Table
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

MOST_BYTES_PER_VOXEL = 8.0
SIDE = 512


def peak() -> int:
    """Bytes of memory that this process has held at most."""
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


def predict(model: str, image: Path) -> None:
    """What the process of its own does."""
    predictor = load(model, device="cpu")
    loaded = peak()
    prediction = predictor.predict(image)
    print(json.dumps({"loaded": loaded, "peak": peak(), "lesions": len(prediction.lesions)}))


def measure(model: str, depth: int, folder: Path) -> dict[str, Any]:
    """Predicts a phantom of so many slices."""
    # Everything large happens in other processes: a process begins with the peak of the one that started it.
    path = folder / f"{depth}.nii.gz"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(write_phantom, model, depth, path).result()
    command = [sys.executable, __file__, "-m", model, "--one", str(path)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"slices": depth, "voxels": depth * SIDE * SIDE, **found}


def write_phantom(model: str, depth: int, path: Path) -> None:
    """Writes a phantom that is repeated, up and down, to so many slices."""
    phantom = make_phantom(seed=3, index=0, size=SIDE)
    there = len(phantom.image)
    period = np.concatenate([np.arange(there), np.arange(there)[::-1]])
    image = phantom.image[np.resize(period, depth)]
    # The model's own distance between slices: as many slices go through the network as the file has.
    step = checkpoints.read_folder(model).plan.z_spacing or phantom.spacing[0]
    spacing = (step, phantom.spacing[1], phantom.spacing[2])
    write_volume(path, Volume(image, Geometry.aligned(image.shape, spacing)))


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="demo", help="model folder (default: %(default)s)")
    parser.add_argument("--slices", type=int, nargs=2, default=(100, 400), help="(default: 100 400)")
    parser.add_argument("-o", "--out", type=Path, help="folder for predict_memory.json and .txt")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        predict(options.model, options.one)
        return 0

    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(options.model, depth, Path(folder)) for depth in options.slices]
    low, high = rows
    per_voxel = (high["peak"] - low["peak"]) / (high["voxels"] - low["voxels"])
    met = per_voxel <= MOST_BYTES_PER_VOXEL
    table = Table(
        f"Peak memory of a prediction, {SIDE} x {SIDE} pixels, CPU",
        (Column("Slices"), Column("Model loaded, MiB", ".0f"), Column("Peak, MiB", ".0f"), Column("Lesions", "d")),
        tuple((str(row["slices"]), row["loaded"] / 2**20, row["peak"] / 2**20, row["lesions"]) for row in rows),
    )
    text = (
        f"{table.text()}\nbytes per voxel from the difference: {per_voxel:.2f} "
        f"(at most {MOST_BYTES_PER_VOXEL:g}: {'met' if met else 'MISSED'})\n"
    )
    print(text)
    if options.out is not None:
        content = {"rows": rows, "bytes_per_voxel": per_voxel, "met": met, "versions": versions(), "commit": commit()}
        write_json(options.out / "predict_memory.json", content)
        write_text(options.out / "predict_memory.txt", text)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
