"""What of the neighbouring slices survives the pooling of volumetric attention, on phantoms.

    python benchmarks/context_probe.py RUN --cases 60 --seed 4001 -o out

A detector cannot use what its gates are not told. Here nothing of attention is trained: on the slice that shows most
of each finding, a detector's own feature maps are read where the finding lies, in the target and in its bag, and a
classifier is asked whether that is a lesion or a look-alike. What it is given:

* the target's own features (all channels): what a plain detector knows;
* the same of every image in the bag: all that context could say;
* the mean over the bag of all channels: as above, but the order of the slices is lost;
* maximum and mean over the channels, of every image: the pooling of eq. 3;
* maximum and mean over the channels, mean over the bag: eq. 3 with equal weights, before its one filter;
* the mean over the whole slice, of every image: the pooling of eq. 2.

Each is the area under the ROC curve, cross-validated by phantom. A classifier of a few hundred findings is not the
best there is: these are lower bounds of what is there.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lookalikes import best_slices
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from volattn.inference.predict import Predictor, load
from volattn.inference.reader import SliceReader
from volattn.io.files import write_json, write_text
from volattn.phantoms import Phantom, make_phantom
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Table, span
from volattn.slabs.images import bag_centres
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

PARTITIONS = 5
PATCH = 5


@dataclass(frozen=True)
class Seen:
    """A finding in the feature maps.

    Attributes:
        case: Its phantom.
        is_lesion: Whether it is one.
        features: What a classifier is given, by name.
    """

    case: int
    is_lesion: bool
    features: dict[str, NDArray[np.float32]]


def read_maps(predictor: Predictor, reader: SliceReader, centres: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    """The feature maps (N, C, h, w) of a bag that regions are pooled from, by level; the frame's filled part."""
    model = predictor.model
    with torch.inference_mode():
        images = reader.images(centres.tolist(), model.config.slices, predictor.device)
        pyramid = model.encode(images)
    rows, columns = reader.filled
    levels = zip(model.config.backbone.stage_levels[:2], model.config.backbone.strides, strict=False)
    return {level: pyramid[level][..., : -(-rows // stride), : -(-columns // stride)] for level, stride in levels}


def describe(maps: torch.Tensor, at: tuple[float, float]) -> dict[str, NDArray[np.float32]]:
    """What a classifier is given of the maps of one level.

    Args:
        maps: (N, C, h, w), the target in the middle of the bag.
        at: Where the finding is, as shares of the map's height and width.
    """
    h, w = maps.shape[-2:]
    row, column = (min(int(share * size), size - 1) for share, size in zip(at, (h, w), strict=True))
    own = maps[:, :, row, column]
    half = PATCH // 2
    pooled = F.pad(torch.stack((maps.amax(1), maps.mean(1)), dim=1), (half,) * 4)
    pooled = pooled[:, :, row : row + PATCH, column : column + PATCH]
    target = len(maps) // 2
    parts = {
        "target, all channels": own[target],
        "each image, all channels": own,
        "mean over the bag, all channels": torch.stack((own[target], own.mean(0))),
        "target, maximum and mean": pooled[target],
        "each image, maximum and mean": pooled,
        "mean over the bag, maximum and mean": torch.stack((pooled[target], pooled.mean(0))),
        "each image, mean over the slice": maps.mean((-2, -1)),
    }
    return {name: part.flatten().float().cpu().numpy() for name, part in parts.items()}


def see(predictor: Predictor, phantom: Phantom, case: int, images: int) -> list[Seen]:
    """Reads the features of a phantom's findings, each with a bag of so many images."""
    volume = Volume(phantom.image, Geometry.aligned(phantom.image.shape, phantom.spacing), f"phantom {case}")
    reader = SliceReader(volume, predictor.folder.plan)
    found = []
    for number, z in best_slices(phantom, reader).items():
        own = phantom.numbers[reader.nearest(z)] == number + 1
        at = tuple((np.argwhere(own).mean(0) + 0.5) / own.shape)
        levels = read_maps(predictor, reader, bag_centres(z, reader.depth, images))
        told = [describe(maps, (float(at[0]), float(at[1]))) for maps in levels.values()]
        features = {name: np.concatenate([one[name] for one in told]) for name in told[0]}
        found.append(Seen(case, phantom.findings[number].kind == "lesion", features))
    return found


def separability(seen: list[Seen], name: str) -> list[float]:
    """Area under the ROC curve of one kind of features, over `PARTITIONS` partitions of the phantoms."""
    table = np.stack([one.features[name] for one in seen])
    truth = np.array([one.is_lesion for one in seen])
    cases = [one.case for one in seen]
    areas = []
    for partition in range(PARTITIONS):
        folds = GroupKFold(5, shuffle=True, random_state=partition)
        model = make_pipeline(StandardScaler(), SVC(C=3.0, class_weight="balanced"))
        scores = cross_val_predict(model, table, truth, groups=cases, cv=folds, method="decision_function")
        areas.append(float(roc_auc_score(truth, scores)))
    return areas


def main() -> None:
    """Reads, asks, and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of a detector with masks")
    parser.add_argument("--cases", type=int, default=60, help="phantoms (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=4001, help="theirs (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side (default: %(default)s)")
    parser.add_argument("--bag", type=int, default=5, help="N, images in a bag (default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="for context_probe.json and .md")
    options = parser.parse_args()
    predictor = load(options.run)
    seen: list[Seen] = []
    for case in range(options.cases):
        seen += see(predictor, make_phantom(options.seed, case, options.size), case, options.bag)
        print(f"phantom {case + 1} of {options.cases}", file=sys.stderr, flush=True)
    areas = {name: separability(seen, name) for name in seen[0].features}
    lesions = sum(one.is_lesion for one in seen)
    content: dict[str, Any] = {
        "settings": {key: getattr(options, key) for key in ("cases", "seed", "size", "bag")},
        "model": predictor.fingerprint,
        "lesions": lesions,
        "distractors": len(seen) - lesions,
        "auc": {name: {"mean": float(np.mean(values)), "partitions": values} for name, values in areas.items()},
    }
    rows = tuple(
        (name, float(np.mean(values)), span((min(values), max(values)), ".3f")) for name, values in areas.items()
    )
    columns = (Column("What is told"), Column("AUC", ".3f"), Column("Partitions"))
    title = f"{lesions} lesions against {len(seen) - lesions} look-alikes, N = {options.bag}"
    text = Table(title, columns, rows).text()
    write_json(options.out / "context_probe.json", content | {"versions": versions(), "commit": commit()})
    write_text(options.out / "context_probe.md", f"```\n{text.rstrip()}\n```\n")
    print(text)


if __name__ == "__main__":
    main()
