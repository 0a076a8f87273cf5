"""ComfyUI's sampler for a probe: what a MODEL samples, in how many seconds, and what its attention is asked.

Every MODEL is cloned; none is changed. All runs go through ComfyUI's own KSampler, with its progress and its cancel.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from . import IS_COMFYUI, resources
from .model_patches import OVERRIDE, PREFIX, cloned, forward_facts, named_arguments, uncompiled

if TYPE_CHECKING:
    from torch import Tensor

_KEY = "tokenreel_probe"
_SAMPLERS = ("euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "uni_pc")
_SCHEDULERS = ("simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal")


def samplers() -> list[str]:
    """The names of ComfyUI's samplers; where there is no ComfyUI, of the common ones."""
    if not IS_COMFYUI:
        return list(_SAMPLERS)
    import comfy.samplers

    return list(comfy.samplers.KSampler.SAMPLERS)


def schedulers() -> list[str]:
    """The names of ComfyUI's schedulers; where there is no ComfyUI, of the common ones."""
    if not IS_COMFYUI:
        return list(_SCHEDULERS)
    import comfy.samplers

    return list(comfy.samplers.KSampler.SCHEDULERS)


class Watcher(Protocol):
    """Sees what a model does while it samples once: see `models.fidelity_watch.Watch`."""

    def schedule(self, sigmas: list[float], first_sigma: float, last_sigma: float) -> None: ...

    def begin(self, *, step: int, **facts: Any) -> Any: ...

    def end(self, forward: Any) -> None: ...

    def attend(
        self,
        forward: Any,
        backend: Callable[..., Tensor],
        patched: Callable[..., Tensor] | None,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Tensor: ...

    def through(
        self,
        forward: Any,
        arguments: dict[str, Any],
        dense: Callable[[dict[str, Any]], dict[str, Any]],
        patched: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> dict[str, Any]: ...


@dataclass
class Sampled:
    """What one run gave. `latents`: a video's alone, or that and its sound's. `runs`: our patches', as they ended."""

    latents: list[Tensor]
    seconds: float
    forwards: int
    runs: list[Any]


@dataclass(frozen=True)
class Sampling:
    """What is sampled, in the words of ComfyUI's KSampler. `latent` is its LATENT, a dictionary."""

    positive: Any
    negative: Any
    latent: dict[str, Any]
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str

    def run(self, model: Any, step: Callable[[], None], *, steps: int | None = None) -> Sampled:
        """All steps, or the first `steps`, with a MODEL as it is; calls `step` after each."""
        meter = _Meter()
        clone = cloned(model)
        latents = self._sample(meter.on(clone), step, steps)
        return Sampled(latents, meter.seconds, meter.forwards, meter.runs)

    def watch(
        self,
        model: Any,
        reference: Any,
        watcher: Watcher,
        step: Callable[[], None],
        *,
        percents: tuple[float, float],
    ) -> None:
        """All steps, on which `watcher` sees what `model` would answer, and `reference`, which it was made of.

        `percents`: the part of the sampling of which it is told between which noise levels that lies. ValueError where
        both are patched by this pack and one was not made of the other.
        """
        clone = cloned(model)
        _check_origin(clone, cloned(reference))
        self._sample(_Observer(watcher, reference, percents).on(clone), step, None)

    def _sample(self, model: Any, step: Callable[[], None], steps: int | None) -> list[Tensor]:
        """As ComfyUI's KSampler node does."""
        import comfy.sample
        import comfy.samplers

        fix = comfy.sample.fix_empty_latent_channels
        ratios = {f"downscale_ratio_{name}": self.latent.get(f"downscale_ratio_{name}") for name in _AXES}
        known = inspect.signature(fix).parameters
        image = fix(model, self.latent["samples"], **{name: each for name, each in ratios.items() if name in known})
        noise = comfy.sample.prepare_noise(image, self.seed, self.latent.get("batch_index"))
        made = comfy.sample.sample(
            model,
            noise,
            self.steps,
            self.cfg,
            self.sampler,
            self.scheduler,
            self.positive,
            self.negative,
            image,
            last_step=steps,
            noise_mask=self.latent.get("noise_mask"),
            callback=lambda *_: step(),
            disable_pbar=True,
            seed=self.seed,
        )
        return list(made.unbind()) if getattr(made, "is_nested", False) else [made]


_AXES = ("spacial", "temporal")  # ComfyUI's spelling


def same_weights(model: Any, other: Any) -> bool:
    """Whether two MODELs compute with the same numbers: the same network, LoRA and replaced parts."""
    parts = [{name for name in each.object_patches if name != "model_sampling"} for each in (model, other)]
    return model.model is other.model and model.patches_uuid == other.patches_uuid and parts[0] == parts[1]


def _check_origin(model: Any, reference: Any) -> None:
    from comfy.patcher_extension import WrappersMP

    ours, theirs = (each.wrappers.get(WrappersMP.OUTER_SAMPLE, {}) for each in (reference, model))
    if any(str(key).startswith(PREFIX) and ours[key] != theirs.get(key) for key in ours):
        raise ValueError(
            "Invalid patched: both models have patches of this pack, and different ones. Connect to model the one that "
            "patched was made from, without the patches in question."
        )


class _Meter:
    """Seconds of the steps, with everything loaded, and how often the model runs."""

    def __init__(self) -> None:
        self.seconds, self.forwards = 0.0, 0
        self.runs: list[Any] = []
        self._count = uncompiled(self._counted)

    def on(self, model: Any) -> Any:
        from comfy.patcher_extension import WrappersMP

        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, _KEY, self.sample)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, _KEY, self.forward)
        return model

    def sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[2].get("model_options", {}).get("transformer_options", {})
        self.runs = [each for each in options.values() if hasattr(each, "report") and hasattr(each, "density")]
        began = _now()
        made = executor(*args, **kwargs)
        self.seconds = _now() - began
        return made

    def forward(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self._count()
        return executor(*args, **kwargs)

    def _counted(self) -> None:
        self.forwards += 1


class _Observer:
    """Puts a watcher around attention and replaced blocks, anew for each forward: whatever was put there is inside."""

    def __init__(self, watcher: Watcher, reference: Any, percents: tuple[float, float]):
        options = reference.model_options.get("transformer_options", {})
        self._watcher, self._percents = watcher, percents
        self._dense = options.get(OVERRIDE)
        self._blocks = options.get("patches_replace", {}).get("dit", {})
        self._sigmas: list[float] = []
        self._enter, self._leave = uncompiled(self._entered), uncompiled(self._left)

    def on(self, model: Any) -> Any:
        from comfy.patcher_extension import WrappersMP

        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, _KEY, self.sample)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, _KEY, self.forward)
        return model

    def sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider, sigmas = args[0], args[1]
        self._sigmas = sigmas[:-1].tolist()
        sampling = guider.model_patcher.get_model_object("model_sampling")
        first, last = (float(sampling.percent_to_sigma(each)) for each in self._percents)
        self._watcher.schedule(self._sigmas, first, last)
        return executor(*args, **kwargs)

    def forward(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        entered = self._enter(executor, args, kwargs)
        made = executor(*args, **kwargs)
        self._leave(entered)
        return made

    def _entered(self, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = named_arguments(executor.original, args, kwargs)
        options = given.get("transformer_options")
        if not isinstance(options, dict):
            return None
        facts = forward_facts(executor.class_obj, given, options)
        sigma = facts["sigma"] or 0.0
        # samplers of higher order also ask between two steps: that belongs to the first of them
        step = max(0, sum(each >= sigma * (1 - 1e-4) for each in self._sigmas) - 1)
        before = {name: options[name] for name in (OVERRIDE, "patches_replace") if name in options}
        forward = self._watcher.begin(step=step, **facts)
        options[OVERRIDE] = uncompiled(self._override(forward, options.get(OVERRIDE)))
        replaced = options.get("patches_replace", {})
        blocks = {name: self._replacement(forward, name, each) for name, each in replaced.get("dit", {}).items()}
        if blocks:
            options["patches_replace"] = {**replaced, "dit": blocks}
        return forward, options, before

    def _left(self, entered: Any) -> None:
        if entered is None:
            return
        forward, options, before = entered
        options.pop(OVERRIDE)
        options.update(before)
        self._watcher.end(forward)

    def _override(self, forward: Any, there: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        dense = self._dense

        def override(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            resources.check_cancelled()
            backend = func if dense is None else functools.partial(dense, func)
            patched = None
            if there is not dense:
                patched = func if there is None else functools.partial(there, func)
            return self._watcher.attend(forward, backend, patched, args, kwargs)

        return override

    def _replacement(self, forward: Any, name: Any, there: Callable[..., Any]) -> Callable[..., Any]:
        dense = self._blocks.get(name)
        if there is dense:
            return there

        def replace(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            def original(given: dict[str, Any]) -> dict[str, Any]:
                return extra["original_block"](given) if dense is None else dense(given, extra)

            return self._watcher.through(forward, args, original, lambda given: there(given, extra))

        return uncompiled(replace)


def _now() -> float:
    """Seconds, once the device has done what it was told."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
