"""Where the pack runs: inside ComfyUI, or on the small embedded host that needs no ComfyUI.

The only folder that may import ComfyUI's modules.
"""

import sys

# ComfyUI loads its node API before it loads any pack. Whether it could be imported says nothing: a ComfyUI checkout may
# lie on sys.path of a process that is none.
IS_COMFYUI = "comfy_api.latest" in sys.modules
