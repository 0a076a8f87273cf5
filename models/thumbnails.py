"""Small pictures of frames: each pixel the sum or the mean of a block."""

import numpy as np


def block_sums(frame: np.ndarray, side: int) -> tuple[np.ndarray, int]:
    """uint32 `[h, w, 3]`, the longer side at most `side`: sums over blocks of uint8 `[H, W, 3]`, and a block's pixels.

    What does not fill a block at the right and below is left out.
    """
    H, W, _ = frame.shape
    step = -(-max(H, W) // side)
    down, across = min(step, H), min(step, W)  # of a block; less than a step only in a strip of a picture
    h, w = H // down, W // across
    rows = frame[: h * down, : w * across].reshape(h, down, w * across * 3)
    # Rows are summed in integers before floats appear: ten times as fast as a mean over two axes.
    total = rows[:, 0].astype(np.uint16 if down <= 257 else np.uint32)
    for row in range(1, down):
        total += rows[:, row]
    starts = np.arange(0, w * across, across)
    return np.add.reduceat(total.reshape(h, w * across, 3), starts, axis=1, dtype=np.uint32), down * across
