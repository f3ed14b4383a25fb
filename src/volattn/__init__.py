"""volattn finds and outlines lesions in 3D CT with volumetric attention (MICCAI 2019).

`volattn.load("demo").predict("ct.nii.gz")` predicts. `prepare`, `train`, `predict` and `evaluate` do what the commands
of those names do. `VolumetricAttention` is the module alone, for any CNN.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volattn.api import evaluate as evaluate
    from volattn.api import load as load
    from volattn.api import predict as predict
    from volattn.api import prepare as prepare
    from volattn.api import train as train
    from volattn.models.attention import VolumetricAttention as VolumetricAttention
    from volattn.structures.geometry import Geometry as Geometry
    from volattn.structures.volume import Volume as Volume

__all__ = [
    "Geometry",
    "Volume",
    "VolumetricAttention",
    "__version__",
    "evaluate",
    "load",
    "predict",
    "prepare",
    "train",
]

__version__ = "0.2.0"

# Imported on first use: `import volattn` and `volattn --help` must not load PyTorch.
_MODULES = {
    **dict.fromkeys(("evaluate", "load", "predict", "prepare", "train"), "volattn.api"),
    "Geometry": "volattn.structures.geometry",
    "Volume": "volattn.structures.volume",
    "VolumetricAttention": "volattn.models.attention",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'volattn' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
