"""The networks and what is computed around them: pure torch, no ComfyUI, no video library."""
