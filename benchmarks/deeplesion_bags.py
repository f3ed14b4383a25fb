"""A picture of key slices with their boxes and bags, and how the boxes' HU differ from what is around them.

    python benchmarks/deeplesion_bags.py DEEPLESION -o out

DEEPLESION is a folder in DeepLesion's layout; key slices without images are passed over. Each row is a key slice as a
slab holds it: whole, with its boxes; then the bag around the first box, each 2.5D image by its centre slice, with
where it lies to the key slice in mm. Everything goes through a store and the slabs of training, in a temporary folder.

The table says for each box how far apart the medians of its middle and of a ring around it are (HU), and how often a
pixel of the one is brighter than one of the other (or darker, whichever is more; 0.5 is no difference).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.stats import rankdata

from volattn.datasets.case import Dataset
from volattn.datasets.open import open_dataset
from volattn.io.files import atomic_path, write_json
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.provenance import commit, versions
from volattn.slabs.loader import SlabConfig, SlabDataset
from volattn.slabs.slab import Slab

PLAN = Plan(window=(-200, 300), z_spacing=2.0, size=512)
AROUND = 1.6
"""Side of an enlarged part over the longest side of its box."""

Box = tuple[float, float, float, float]


def main() -> int:
    """Draws and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("deeplesion", type=Path, help="folder with DL_info.csv and Images_png")
    parser.add_argument("--bag", type=int, default=3, help="N (default: %(default)s)")
    parser.add_argument("--most", type=int, default=6, help="key slices at most (default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()

    dataset = with_images(open_dataset(options.deeplesion), options.most)
    with tempfile.TemporaryDirectory() as folder:
        store = prepare_dataset(dataset, PLAN, Path(folder) / "store").store
        slabs = SlabDataset(store, store.names, SlabConfig(bag=options.bag, targets=1), size=PLAN.size)
        shown = sorted((slabs[index] for index in range(len(slabs))), key=lambda slab: slab.origins)
        step = {name: store.case(name).description.step for name in store.names}
    draw(options.out / "bags.png", shown, step)
    rows = [measured for slab in shown for measured in measure(slab)]
    write_json(
        options.out / "bags.json",
        {"boxes": rows, "plan": PLAN.model_dump(mode="json"), "commit": commit(), "versions": versions()},
    )
    for row in rows:
        print(f"{row['key_slice']}: {row['hu_apart']:.0f} HU apart, {row['in_order']:.2f} in order")
    return 0


def with_images(dataset: Dataset, most: int) -> Dataset:
    """The first cases whose folder is there.

    Raises:
        ValueError: There are none.
    """
    there = tuple(case for case in dataset.cases if case.image.is_dir())[:most]
    if not there:
        raise ValueError(f"{dataset.root}: none of its key slices has images here")
    return replace(dataset, cases=there)


def hounsfield(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """An input of the network, back in HU."""
    low, high = PLAN.window
    return image * (high - low) + low


def measure(slab: Slab) -> list[dict[str, object]]:
    """The boxes of a key slice against the rings around them."""
    plane = hounsfield(slab.images[slab.target_at[0]].numpy())[1]
    found: list[dict[str, object]] = []
    for x0, y0, x1, y1 in slab.targets[0]["boxes"].tolist():
        apart, order = contrast(plane, (x0, y0, x1, y1))
        found.append(
            {
                "key_slice": slab.origins[0][0],
                "box_xyxy": [round(value, 2) for value in (x0, y0, x1, y1)],
                "hu_apart": round(apart, 1),
                "in_order": round(order, 3),
            }
        )
    return found


def contrast(plane: NDArray[np.float32], box: Box) -> tuple[float, float]:
    """Medians of a box's middle and of the ring around it, HU apart; and the share of pairs in one order."""
    x0, y0, x1, y1 = box
    rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]] + 0.5
    across, along = (columns - (x0 + x1) / 2) / ((x1 - x0) / 2), (rows - (y0 + y1) / 2) / ((y1 - y0) / 2)
    radius = np.hypot(across, along)
    inside, ring = plane[radius <= 0.6], plane[(radius >= 1.2) & (radius <= 2)]
    ranks = rankdata(np.concatenate([inside, ring]))[: inside.size]
    order = float((ranks.sum() - inside.size * (inside.size + 1) / 2) / (inside.size * ring.size))
    return abs(float(np.median(inside) - np.median(ring))), max(order, 1 - order)


def draw(path: Path, slabs: list[Slab], step: dict[str, float]) -> None:
    """Writes the picture, atomically."""
    columns = 1 + len(slabs[0].bags[0])
    figure = Figure(figsize=(2.4 * columns, 2.55 * len(slabs)), dpi=80, layout="compressed")
    FigureCanvasAgg(figure)
    for row, slab in enumerate(slabs):
        name, _ = slab.origins[0]
        boxes = [(x0, y0, x1, y1) for x0, y0, x1, y1 in slab.targets[0]["boxes"].tolist()]
        images = [slab.images[slab.target_at[0]], *slab.images[slab.bags[0]]]
        middle = len(slab.bags[0]) // 2
        for column, image in enumerate(images):
            axes = figure.add_subplot(len(slabs), columns, row * columns + column + 1)
            plane = hounsfield(image.numpy())[image.shape[0] // 2]
            axes.imshow(plane, cmap="gray", vmin=-160, vmax=240, interpolation="nearest")
            for x0, y0, x1, y1 in boxes:
                # Pixel 0 is drawn around 0, its edge is at 0 in ours.
                outline = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="#2ee59d")
                axes.add_patch(outline)
            if column:
                x0, y0, x1, y1 = boxes[0]
                half = AROUND * max(x1 - x0, y1 - y0)
                axes.set_xlim((x0 + x1) / 2 - half, (x0 + x1) / 2 + half)
                axes.set_ylim((y0 + y1) / 2 + half, (y0 + y1) / 2 - half)
            offset = (column - 1 - middle) * 3 * step[name]
            axes.set_title(name if column == 0 else f"{offset:+g} mm", fontsize=8)
            axes.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


if __name__ == "__main__":
    raise SystemExit(main())
