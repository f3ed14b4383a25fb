"""Synthetic abdominal CT with lesions that only their course through the slices gives away."""

from volattn.phantoms.make import Phantom, make_phantom
from volattn.phantoms.write import write_phantoms

__all__ = ["Phantom", "make_phantom", "write_phantoms"]
