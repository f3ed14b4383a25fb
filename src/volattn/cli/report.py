"""What `volattn --version --report` prints for a bug report: no path, and no name of the user, machine or file."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from volattn import __version__
from volattn.provenance import commit

_NAME = re.compile(r"[\w.-]+")
_DIGITS = re.compile(r"[\d.]+")


def report() -> str:
    """Versions, system, device, threads and command, a line each."""
    return "\n".join(f"{what}: {value}" for what, value in _lines())


def _lines() -> Iterator[tuple[str, str]]:
    yield "volattn", f"{__version__} ({commit() or 'installed'})"
    # Digits only: the name of a custom kernel may name a person.
    kernel = _DIGITS.match(platform.release())
    yield "system", f"{platform.system()} {kernel[0] if kernel else ''} {platform.machine()}"
    yield "python", f"{platform.python_implementation()} {platform.python_version()}"
    yield from _libraries()
    yield from _devices()
    yield "command", "python -m volattn" if sys.orig_argv[1:2] == ["-m"] else "volattn"


def _libraries() -> Iterator[tuple[str, str]]:
    """Installed libraries among those that volattn and its extras, except dev, require."""
    try:
        needed = [line for line in requires("volattn") or [] if not re.search("extra == .dev", line)]
    except PackageNotFoundError:  # The source tree alone, by PYTHONPATH.
        needed = ["torch", "torchvision", "numpy", "nibabel"]
    for name in sorted({found[0].lower() for found in map(_NAME.match, needed) if found} - {"volattn"}):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield (f"cuda:{index}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    if not torch.cuda.is_available():
        yield "cuda", f"none (PyTorch is built for {torch.version.cuda or 'the CPU'})"
    yield "threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"
