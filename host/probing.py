"""ComfyUI's sampler for a probe: what a MODEL samples, in how many seconds, and what its attention is asked."""

from __future__ import annotations

from . import IS_COMFYUI

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
