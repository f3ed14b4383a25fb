"""What the gates of volumetric attention look at, on phantoms: are they moving at all?

For a few phantoms, the slices through the largest lesion, the largest distractor and the gallbladder: the spatial gate
of every level over the slice, what of the bag spoke, and how the channel gates are spread. Over all of these slices,
the mean spatial gate on lesions, distractors, gallbladder, liver and elsewhere (gates start at sigmoid(3) = 0.953),
and how much of what the gates read of the bag is above 0, that is, not switched off by a relu.

    python benchmarks/gates.py RUN --cases 4 --seed 1001 -o out
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from volattn.inference.predict import Predictor, load
from volattn.inference.reader import SliceReader
from volattn.io.files import atomic_path, write_json
from volattn.models.attention import ChannelAttention, SpatialAttention, entropy
from volattn.phantoms import Phantom, make_phantom
from volattn.provenance import commit, versions
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import label_components
from volattn.structures.volume import Volume

START = float(torch.sigmoid(torch.tensor(3.0)))
FINDINGS = ("lesion", "distractor", "gallbladder")
PLACES = (*FINDINGS, "liver", "elsewhere")


@dataclass(frozen=True)
class Look:
    """One slice.

    Attributes:
        title: What it shows.
        image: (h, w) HU.
        regions: Which pixels are what, by `PLACES`.
        gates: Spatial gates by level, (h, w) each on the slice's pixels.
        channel_gates: By level, (C,).
        entropies: Of the weights over the bag, by "kind.level", 1 uniform, 0 one-hot.
        alive: Share of the bag's embedded values above 0, by "kind.level": where it is 0, a rectifier hands nothing on.
    """

    title: str
    image: NDArray[np.int16]
    regions: dict[str, NDArray[np.bool_]]
    gates: dict[str, NDArray[np.float32]]
    channel_gates: dict[str, NDArray[np.float32]]
    entropies: dict[str, float]
    alive: dict[str, float]


@contextmanager
def recorded(model: torch.nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Fills in the gates and the weights of the last target that went through a model."""
    found: dict[str, torch.Tensor] = {}

    def keep(kind: str, level: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
            gate, weights = outputs
            found[f"{kind}.{level}"] = gate[-1].detach().float().cpu()
            found[f"weights.{kind}.{level}"] = weights[-1].detach().float().cpu()
            found[f"alive.{kind}.{level}"] = (inputs[1][-1] > 0).float().mean().cpu()

        return hook

    handles = []
    for name, module in model.named_modules():
        kinds = {ChannelAttention: "channel", SpatialAttention: "spatial"}
        if type(module) in kinds:
            handles.append(module.register_forward_hook(keep(kinds[type(module)], name.split(".")[-2])))
    if not handles:
        raise ValueError("the model has no volumetric attention, and so no gates")
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def gallbladder(phantom: Phantom) -> NDArray[np.bool_]:
    """Where the gallbladder is: of all that has bile's density, to the patient's right, what touches the liver most."""
    smooth = ndimage.gaussian_filter(phantom.image.astype(np.float32), (0, 2, 2))
    outside = (phantom.labels == 0) & (phantom.numbers == 0)
    near = ndimage.binary_dilation(phantom.labels > 0, iterations=3) & outside
    beside = ndimage.binary_dilation(phantom.labels > 0, np.ones((1, 3, 3)), iterations=12) & outside
    bile = (smooth > -10) & (smooth < 40) & beside
    bile[:, :, bile.shape[2] // 2 :] = False  # stomach and bowel, mostly
    parts, count = label_components(ndimage.binary_opening(bile, np.ones((1, 5, 5))))
    touching = np.bincount(parts[near], minlength=count + 1)
    touching[0] = 0
    return parts == touching.argmax() if touching.any() else np.zeros(parts.shape, bool)


def slices_of(phantom: Phantom) -> dict[str, tuple[int, str]]:
    """For each of `FINDINGS` the slice that shows most of the largest one, and what it is."""
    sizes = np.bincount(phantom.numbers.ravel(), minlength=len(phantom.findings) + 1)[1:]
    found: dict[str, tuple[int, str]] = {}
    for wanted in ("lesion", "distractor"):
        numbers = [n for n, one in enumerate(phantom.findings) if (one.kind == "lesion") == (wanted == "lesion")]
        if numbers:
            best = max(numbers, key=lambda n: sizes[n])
            z = int((phantom.numbers == best + 1).sum((1, 2)).argmax())
            found[wanted] = (z, phantom.findings[best].kind)
    bile = gallbladder(phantom) & ndimage.binary_dilation(phantom.labels > 0, iterations=3)
    if bile.any():  # where most of it lies against the liver: bowel below it looks the same
        found["gallbladder"] = (int(bile.sum((1, 2)).argmax()), "gallbladder")
    return found


def regions_of(phantom: Phantom, z: int) -> dict[str, NDArray[np.bool_]]:
    """The pixels of a slice by `PLACES`, each in one at most."""
    kinds = np.array([False, *(one.kind == "lesion" for one in phantom.findings)])
    drawn = phantom.numbers[z]
    lesion = kinds[drawn]
    distractor = (drawn > 0) & ~lesion
    bile = gallbladder(phantom)[z]
    liver = (phantom.labels[z] > 0) & ~lesion & ~distractor
    elsewhere = (phantom.image[z] > -500) & ~(lesion | distractor | bile | liver)
    return dict(zip(PLACES, (lesion, distractor, bile, liver, elsewhere), strict=True))


def look(predictor: Predictor, phantom: Phantom, z: int, title: str) -> Look:
    """Sends one slice with its bag through the model."""
    volume = Volume(phantom.image, Geometry.aligned(phantom.image.shape, phantom.spacing), title)
    reader = SliceReader(volume, predictor.folder.plan, anchor=z)
    with recorded(predictor.model) as found:
        list(predictor.detect(reader, [reader.anchored]))
    shape = phantom.image.shape[1:]
    rows, columns = (filled / predictor.folder.plan.size for filled in reader.filled)
    gates = {}
    for key, gate in found.items():
        if key.startswith("spatial."):
            h, w = gate.shape[-2:]
            part = gate.reshape(1, -1, h, w).mean(1, keepdim=True)[
                ..., : max(round(h * rows), 1), : max(round(w * columns), 1)
            ]
            gates[key.partition(".")[2]] = torch.nn.functional.interpolate(part, shape, mode="nearest")[0, 0].numpy()
    return Look(
        title,
        phantom.image[z],
        regions_of(phantom, z),
        gates,
        {key.partition(".")[2]: gate.flatten().numpy() for key, gate in found.items() if key.startswith("channel.")},
        {
            key.removeprefix("weights."): float(entropy(weights))
            for key, weights in found.items()
            if key.startswith("weights.")
        },
        {key.removeprefix("alive."): float(share) for key, share in found.items() if key.startswith("alive.")},
    )


def numbers(looks: list[Look]) -> dict[str, Any]:
    """Means over the slices, by level."""

    def mean(level: str, place: str) -> float | None:
        values = [one.gates[level][one.regions[place]] for one in looks if one.regions[place].any()]
        return float(np.concatenate(values).mean()) if values else None

    first = looks[0]
    spatial = {
        level: {place: mean(level, place) for place in PLACES}
        | {"deviation_within_a_slice": float(np.mean([one.gates[level].std() for one in looks]))}
        for level in first.gates
    }
    channel = {
        level: {
            "mean": float(np.mean([one.channel_gates[level] for one in looks])),
            "lowest": float(np.min([one.channel_gates[level] for one in looks])),
            "highest": float(np.max([one.channel_gates[level] for one in looks])),
            "deviation_between_slices": float(np.std([one.channel_gates[level] for one in looks], axis=0).mean()),
        }
        for level in first.channel_gates
    }
    entropies = {key: float(np.mean([one.entropies[key] for one in looks])) for key in first.entropies}
    alive = {key: float(np.mean([one.alive[key] for one in looks])) for key in first.alive}
    return {
        "slices": len(looks),
        "start": START,
        "spatial": spatial,
        "channel": channel,
        "bag_entropy": entropies,
        "share_above_0": alive,
    }


def draw(looks: list[Look]) -> Figure:
    """A row for each slice: the slice with what is in it, and the spatial gate of each level."""
    levels = list(looks[0].gates)
    figure = Figure(figsize=(2.3 * (1 + len(levels)), 2.5 * len(looks) + 0.6), dpi=110, layout="constrained")
    grid = figure.subplots(len(looks), 1 + len(levels), squeeze=False)
    mapped = None
    for row, one in zip(grid, looks, strict=True):
        row[0].imshow(one.image, cmap="gray", vmin=-100, vmax=240)
        row[0].set_ylabel(one.title, fontsize=9)
        _outline(row[0], one)
        for axes, level in zip(row[1:], levels, strict=True):
            mapped = axes.imshow(one.gates[level], cmap="viridis", vmin=0, vmax=1)
            _outline(axes, one)
            words = f"{one.gates[level].min():.2f} to {one.gates[level].max():.2f}"
            axes.set_xlabel(f"{words}; bag {one.entropies[f'spatial.{level}']:.2f}", fontsize=8)
    for axes, title in zip(grid[0], ["CT", *(f"spatial gate, level {level}" for level in levels)], strict=True):
        axes.set_title(title, fontsize=9)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    if mapped is not None:
        figure.colorbar(mapped, ax=grid[:, -1], shrink=0.6, label="gate (starts at 0.953)")
    figure.supxlabel(
        "red lesion, orange distractor, cyan gallbladder; below: the gate's range, and the entropy of the weights "
        "over the bag (1 uniform, 0 one slice)",
        fontsize=8,
    )
    return figure


def _outline(axes: Axes, one: Look) -> None:
    for place, colour in zip(FINDINGS, ("red", "orange", "cyan"), strict=True):
        if one.regions[place].any():
            axes.contour(one.regions[place], [0.5], colors=colour, linewidths=0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder with attention before the proposals, or demo")
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1001, help="of phantoms that the run has not seen")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    predictor = load(given.run)
    looks = []
    for index in range(given.cases):
        phantom = make_phantom(given.seed, index, given.size)
        for _, (z, kind) in slices_of(phantom).items():
            looks.append(look(predictor, phantom, z, f"phantom {index}: {kind}"))
    content = {"run": predictor.fingerprint, "seed": given.seed, "cases": given.cases, **numbers(looks)}
    write_json(given.out / "gates.json", content | {"versions": versions(), "commit": commit()})
    with atomic_path(given.out / "gates.png") as temporary:
        draw(looks[:6]).savefig(temporary)
    print((given.out / "gates.json").read_text())


if __name__ == "__main__":
    main()
