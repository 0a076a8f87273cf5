"""Load this checkout as `tokenreel`, the way ComfyUI loads a node folder: not installed, whatever the folder's name."""

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the checkout on sys.path, where our `nodes` and `models` would hide ComfyUI's.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


def _load_checkout() -> None:
    spec = importlib.util.spec_from_file_location(
        "tokenreel", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tokenreel"] = module
    spec.loader.exec_module(module)


_load_checkout()


@pytest.fixture(autouse=True)
def restored_rng():
    """Leave the global random states as they were, so that no test depends on which ran before it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch is not None else None
    yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    if torch is not None:
        torch.set_rng_state(torch_state)
