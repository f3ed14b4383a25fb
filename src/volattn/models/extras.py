"""Packages that only some models are made with."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def load_extra(name: str, module: str) -> ModuleType:
    """A module of the extra `volattn[segmentation]`.

    Args:
        name: Of the model that needs it.
        module: What is imported.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name}: is made with {module.partition('.')[0]}, and {error.name} is not installed; "
            "install volattn[segmentation]"
        ) from None
