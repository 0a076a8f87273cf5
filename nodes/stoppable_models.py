"""MODELs whose forwards can be stopped halfway: on large videos one takes longer than anybody waits for Cancel."""

from contextlib import AbstractContextManager
from typing import Any

from ..host import resources
from ..models.network_checks import checked

_COMPILED = "torch_compile_kwargs"  # among the options of a MODEL from ComfyUI's TorchCompileModel


def stoppable(*models: Any) -> AbstractContextManager[None]:
    """In this `with` block each part of these MODELs looks for cancel before it runs, which moves the progress bar too.

    Compiled ones look after each step alone, as everywhere in ComfyUI: what is compiled must stay as it was. None, and
    what is no MODEL, is passed over.
    """
    networks = [
        getattr(getattr(each, "model", None), "diffusion_model", None) for each in models if not _compiled(each)
    ]
    return checked({id(each): each for each in networks if each is not None}.values(), resources.check_cancelled)


def _compiled(model: Any) -> bool:
    parts = getattr(model, "object_patches", {}).values()
    return _COMPILED in getattr(model, "model_options", {}) or any(hasattr(each, "_orig_mod") for each in parts)
