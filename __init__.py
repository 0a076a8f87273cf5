"""TokenReel: token-efficient video synthesis for ComfyUI, the command line and Python.

Importing this file loads neither torch nor ComfyUI: ComfyUI awaits `comfy_entrypoint`, everyone else imports
submodules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import TokenReelExtension

__version__ = "0.1.0"
WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> TokenReelExtension:
    """Give ComfyUI the extension that lists the nodes."""
    from .nodes import TokenReelExtension

    return TokenReelExtension()
