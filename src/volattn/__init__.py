"""volattn: finds and outlines lesions in 3D CT with volumetric attention (MICCAI 2019).

`volattn.load(run).predict(volume)` is the whole of prediction; `volattn.VolumetricAttention` drops into any CNN.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volattn.inference.predict import load as load
    from volattn.models.attention import VolumetricAttention as VolumetricAttention

__all__ = ["VolumetricAttention", "__version__", "load"]

__version__ = "0.1.0"

# Looked up on first use: importing the package, or asking a command for help, must not load PyTorch.
_HOMES = {"VolumetricAttention": "volattn.models.attention", "load": "volattn.inference.predict"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'volattn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
