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


def test_what_it_hands_on() -> None:
    from volattn.inference.predict import load
    from volattn.models.attention import VolumetricAttention

    assert volattn.load is load
    assert volattn.VolumetricAttention is VolumetricAttention
    assert {"load", "VolumetricAttention", "__version__"} <= set(dir(volattn))


def test_one_version() -> None:
    assert volattn.__version__ == version("volattn")


def test_other_names_are_missing() -> None:
    with pytest.raises(AttributeError, match="predict_everything"):
        _ = volattn.predict_everything
