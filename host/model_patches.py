"""ComfyUI's MODEL, patched: who answers its attention or its blocks while it samples, and what they are told.

A patched MODEL is a clone; neither the source nor any weight is touched. What a patch keeps lives for one sampling run.
Patches chain: attention that another node put into the model before is what ours calls, block by block and tile by
tile, and a node that comes later and does so too calls ours.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

OVERRIDE = "optimized_attention_override"
"""Among a model's transformer_options: who answers its attention."""
PREFIX = "tokenreel."
"""Names of our patches begin so."""
_LINK = "tokenreel"


class AttentionRun(Protocol):
    """Answers calls of attention while a model samples once."""

    def begin(self, **facts: Any) -> Any:
        """What is known of a forward that begins: see `forward_facts`."""
        ...

    def attend(
        self, forward: Any, backend: Callable[..., Tensor], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Tensor: ...

    def finish(self) -> None: ...


class BlockRun(AttentionRun, Protocol):
    """Answers for whole blocks, too."""

    def through(
        self, forward: Any, number: int, arguments: dict[str, Any], original: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]: ...


def check_model(model: Any) -> None:
    """Raises TypeError for what is no MODEL."""
    if not hasattr(getattr(model, "model", None), "diffusion_model"):
        raise TypeError(f"Invalid MODEL ({type(model).__name__}). Connect ComfyUI's Load Diffusion Model.")


def cloned(model: Any) -> Any:
    """A clone of a MODEL. Raises TypeError for what is none."""
    check_model(model)
    return model.clone()


def patch_model(
    model: Any,
    start: Callable[[float, float], AttentionRun],
    *,
    percents: tuple[float, float] = (0.0, 1.0),
    blocks: bool = False,
    asked_first: bool = False,
) -> Any:
    """A clone of a MODEL whose attention, or whose blocks, are answered by a run.

    Of several patches of attention, the one made last is asked first, and calls the others; one that is `asked_first`
    comes before those that are not, whichever was made last.

    `start` makes the run of the noise levels at which it begins and ends to work; they belong to `percents` of the
    steps, in [0, 1]. Raises TypeError for what is no MODEL, ValueError where `blocks` are asked for and the model's
    cannot be answered for.
    """
    patched = cloned(model)
    from comfy.patcher_extension import WrappersMP

    options = patched.model_options.setdefault("transformer_options", {})
    count = sum(str(key).startswith(PREFIX) for key in patched.wrappers.get(WrappersMP.OUTER_SAMPLE, {}))
    key = f"{PREFIX}{count}"
    hooks = _Hooks(key, start, percents)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, hooks.sample)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, key, hooks.predict)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, key, hooks.forward)
    options[OVERRIDE] = _chained(key, options.get(OVERRIDE), asked_first)
    if not blocks:
        return patched
    before = options.get("patches_replace", {}).get("dit", {})
    for number, (name, index) in enumerate(_replaceable(model.model.diffusion_model)):
        replacement = _replacement(key, number, before.get((name, index)))
        patched.set_model_patch_replace(replacement, "dit", name, index)
    return patched


class _Hooks:
    """What ComfyUI calls while it samples with a patched model."""

    def __init__(self, key: str, start: Callable[[float, float], AttentionRun], percents: tuple[float, float]):
        self._key, self._start, self._percents = key, start, percents
        self._unsampled: AttentionRun | None = None
        self._describe = uncompiled(self._told)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hooks:
        return self  # older versions of ComfyUI copy all that a model's options hold

    def sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One run of the sampler: what the patch keeps begins and ends here."""
        import comfy.model_patcher

        guider = executor.class_obj
        sampling = guider.model_patcher.get_model_object("model_sampling")
        first, last = (float(sampling.percent_to_sigma(each)) for each in self._percents)
        run = self._start(first, last)
        original = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(original)
        guider.model_options["transformer_options"][self._key] = run
        try:
            return executor(*args, **kwargs)
        finally:
            guider.model_options = original
            run.finish()

    def predict(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """What the model makes of all conditions in one step."""
        made = executor(*args, **kwargs)
        options = kwargs.get("model_options", args[-1] if args else None)
        conditions = kwargs.get("conds", args[1] if len(args) > 1 else ())
        watch = getattr((options or {}).get("transformer_options", {}).get(self._key), "watch", None)
        windowed = (options or {}).get("context_handler") is not None  # parts of a clip, one after the other
        if watch is not None and not windowed and len(made) == len(conditions) == 2 and None not in conditions:
            watch(*made)
        return made

    def forward(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One run through the model."""
        self._describe(executor, args, kwargs)
        return executor(*args, **kwargs)

    def _told(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = named_arguments(executor.original, args, kwargs)
        options = given.get("transformer_options")
        if not isinstance(options, dict):
            return
        run = options.get(self._key)
        if run is None:  # without a sampler, as in tests of a model
            run = self._unsampled = self._unsampled or self._start(math.inf, 0.0)
        options[_forward_key(self._key)] = run, run.begin(**forward_facts(executor.class_obj, given, options))


def uncompiled(function: Callable[..., Any]) -> Any:
    """As it is, also in a compiled model: compiled code does not look again at what ComfyUI's options hold.

    Not a decorator: torch's compiler takes a second to import, which only a patched model is to cost.
    """
    return torch.compiler.disable(function)


def _forward_key(key: str) -> str:
    return f"{key}.forward"


class _Link(NamedTuple):
    """What an override of ours was made of."""

    key: str
    previous: Callable[..., Tensor] | None
    asked_first: bool


def _chained(key: str, previous: Callable[..., Tensor] | None, asked_first: bool) -> Callable[..., Tensor]:
    link: _Link | None = getattr(previous, _LINK, None)
    if link is not None and link.asked_first and not asked_first:
        return _override(link._replace(previous=_chained(key, link.previous, asked_first)))
    return _override(_Link(key, previous, asked_first))


def _override(link: _Link) -> Callable[..., Tensor]:
    key, previous = link.key, link.previous

    def override(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        backend = func if previous is None else functools.partial(previous, func)
        current = (kwargs.get("transformer_options") or {}).get(_forward_key(key))
        if current is None:
            return backend(*args, **kwargs)
        run, forward = current
        return run.attend(forward, backend, args, kwargs)

    made = uncompiled(override)
    setattr(made, _LINK, link)
    return made


def _replacement(key: str, number: int, previous: Callable[..., Any] | None) -> Callable[..., Any]:
    def replace(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        def original(given: dict[str, Any]) -> dict[str, Any]:
            return extra["original_block"](given) if previous is None else previous(given, extra)

        current = (args.get("transformer_options") or {}).get(_forward_key(key))
        if current is None:
            return original(args)
        run, forward = current
        return run.through(forward, number, args, original)

    return uncompiled(replace)


# -- models


def _is_of(model: Any, family: str) -> bool:
    return any(each.__module__.startswith(f"comfy.ldm.{family}.") for each in type(model).__mro__)


def _replaceable(model: Any) -> list[tuple[str, int]]:
    """The blocks of a model in their order, as ComfyUI names them for replacement."""
    if _is_of(model, "hunyuan_video"):
        doubles = [("double_block", i) for i in range(len(model.double_blocks))]
        return doubles + [("single_block", i) for i in range(len(model.single_blocks))]
    if _is_of(model, "wan") or _is_of(model, "lightricks"):
        return [("double_block", i) for i in range(_counts(model)[1])]
    raise ValueError(
        f"ComfyUI does not let the blocks of this model ({type(model).__name__}) be replaced. Make its attention "
        "cheaper instead, or merge keys."
    )


def _counts(model: Any) -> tuple[int, int]:
    """How many blocks treat text apart, and how many there are; 0 where that is not known."""
    doubles = len(getattr(model, "double_blocks", ()))
    others = [len(getattr(model, name, ())) for name in ("single_blocks", "blocks", "transformer_blocks")]
    return doubles, doubles + next((count for count in others if count), 0)


@functools.lru_cache(maxsize=64)
def _signature(function: Any) -> inspect.Signature:
    return inspect.signature(function)


def named_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by their names."""
    signature = _signature(getattr(function, "__func__", function))
    bound = signature.bind(None, *args, **kwargs) if hasattr(function, "__func__") else signature.bind(*args, **kwargs)
    named = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named


def forward_facts(model: Any, given: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Of a forward that begins, what `begin` of a run is told.

    `grid`: frames, rows and columns of its tokens, or None where there is no video. `before`: how many other tokens lie
    before them; None: all others, -1: not known. `alone`: how many tokens other sequences have that attend to
    themselves. `doubles` and `blocks`: how many blocks treat text apart, and how many there are. `sigma`: the noise
    level, where known.
    """
    latents = given.get("x")
    video = latents[0] if isinstance(latents, list | tuple) else latents
    context = given.get("context")
    alone = {context.shape[1]} if isinstance(context, torch.Tensor) and context.ndim > 2 else set()
    if isinstance(latents, list | tuple):
        alone |= {each.shape[2] for each in latents[1:] if each.ndim > 2}
    sigmas = options.get("sigmas")
    doubles, blocks = _counts(model)
    size = _patch_size(model)
    grid = None
    if size is not None and isinstance(video, torch.Tensor) and video.ndim == 5:
        t, h, w = (-(-side // patch) for side, patch in zip(video.shape[2:], size, strict=True))
        guides = given.get("keyframe_idxs")
        if guides is not None and _is_of(model, "lightricks"):  # frames that guide lie behind the video's
            t -= -(-guides.shape[2] // (h * w))
        grid = (t, h, w) if t > 0 else None
    return {
        "grid": grid,
        "before": _before(model, given),
        "alone": frozenset(alone),
        "doubles": doubles,
        "blocks": blocks,
        "sigma": float(sigmas.max()) if isinstance(sigmas, torch.Tensor) else None,
    }


def _patch_size(model: Any) -> tuple[int, int, int] | None:
    """Frames, rows and columns of latent pixels in a token."""
    if hasattr(model, "patch_spatial"):
        return model.patch_temporal, model.patch_spatial, model.patch_spatial
    size = getattr(model, "patch_size", None) or getattr(getattr(model, "patchifier", None), "patch_size", None)
    return tuple(size) if isinstance(size, list | tuple) and len(size) == 3 else None


def _before(model: Any, given: dict[str, Any]) -> int | None:
    if _is_of(model, "wan"):
        reference = given.get("reference_latent")
        return 0 if reference is None or getattr(model, "ref_conv", None) is None else _tokens(model, reference)
    if _is_of(model, "hunyuan_video"):
        if not getattr(model.double_blocks[0], "flipped_img_txt", False):
            return None
        reference = given.get("ref_latent")  # ComfyUI up to 0.3: the video's tokens came before the text's
        return 0 if reference is None else _tokens(model, reference)
    return 0 if _is_of(model, "lightricks") or _is_of(model, "cosmos") else -1


def _tokens(model: Any, latent: Tensor) -> int:
    """Of a reference, `[B, C, H, W]` or `[B, C, T, H, W]`."""
    size = _patch_size(model) or (1, 1, 1)
    sides = latent.shape[2:]
    return math.prod(-(-side // patch) for side, patch in zip(sides, size[-len(sides) :], strict=True))
