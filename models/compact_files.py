"""Upscalers in files of others: the compact network (SRVGGNetCompact), as Real-ESRGAN and many after it store it.

Only safetensors is read. What the network looks like is seen from the tensors.
"""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .upscaler import SCALES, CompactUpscaler, UpscalerConfig

PREFIXES = ("", "params.", "params_ema.", "module.", "model.")
"""What files put before the names of the tensors."""
_MOST_FEATURES, _MOST_LAYERS = 512, 256


def is_compact(path: Path) -> bool:
    """Whether the file has the tensors of a compact network. Raises ValueError for what is no safetensors file."""
    return _prefix(_names(path)) is not None


def load_compact(path: Path) -> CompactUpscaler:
    """The network in fp32, in evaluation mode, on the CPU. Raises ValueError for anything that is none."""
    names = _names(path)
    prefix = _prefix(names)
    if prefix is None:
        raise ValueError(f"{path.name} holds no compact upscaler. Load it in ComfyUI and connect it.")
    with safe_open(path, "pt") as file:
        state: dict[str, Tensor] = {
            name[len(prefix) :]: file.get_tensor(name).float() for name in names if name.startswith(prefix)
        }
    try:
        net = CompactUpscaler(_config(state))
        net.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path.name} is no compact upscaler that fits here ({reason:.300}).") from error
    return net.eval()


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path.name} is not a readable safetensors file ({error}). Fetch it again.") from error


def _prefix(names: list[str]) -> str | None:
    """What stands before the names; None where they are not those of such a network."""
    found = set(names)
    for prefix in PREFIXES:
        # the first convolution and its PReLU, and nothing outside of the stack
        if {f"{prefix}body.0.weight", f"{prefix}body.1.weight"} <= found:
            return prefix if all(name.startswith(f"{prefix}body.") for name in names) else None
    return None


def _config(state: dict[str, Tensor]) -> UpscalerConfig:
    first = state["body.0.weight"]
    last = max(int(name.split(".")[1]) for name in state if name.split(".")[1].isdecimal())
    features, colours = (*first.shape[:2], 0)[:2]
    depth = last // 2 - 1
    channels = len(state.get(f"body.{last}.weight", ()))
    scale = next((each for each in SCALES if channels == 3 * each**2), None)
    if colours != 3 or scale is None:
        known = ", ".join(map(str, SCALES))
        raise ValueError(f"{colours} colours in, {channels} channels out: supported are RGB and scales {known}")
    if not 1 <= features <= _MOST_FEATURES or not 1 <= depth <= _MOST_LAYERS:
        raise ValueError(f"{features} features, {depth} layers: supported are up to {_MOST_FEATURES}, {_MOST_LAYERS}")
    return UpscalerConfig(scale, features, depth)
