"""What `import volattn` gives, and what it does not load."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import volattn


def test_the_package_is_lazy() -> None:
    script = "import sys, volattn; volattn.__version__; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_what_the_package_offers() -> None:
    """Every name is there, has a docstring and full annotations; those of the API without loading PyTorch."""
    script = (
        "import inspect, sys, volattn\n"
        "for name in ('load', 'predict', 'train', 'prepare', 'evaluate', 'Volume', 'Geometry'):\n"
        "    one = getattr(volattn, name)\n"
        "    assert one.__doc__, name\n"
        "    if inspect.isfunction(one):\n"
        "        assert set(one.__annotations__) == {*inspect.signature(one).parameters, 'return'}, name\n"
        "        assert 'Example:' in one.__doc__, name\n"
        "assert 'torch' not in sys.modules\n"
        "assert volattn.VolumetricAttention.__name__ in dir(volattn)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_one_version() -> None:
    assert volattn.__version__ == version("volattn")


def test_other_names_are_missing() -> None:
    with pytest.raises(AttributeError, match="predict_everything"):
        _ = volattn.predict_everything
