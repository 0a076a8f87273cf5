"""YUV and RGB: which matrix and range a frame really has, and one exact conversion each way.

swscale takes BT.601 limited range when it is told nothing, which shifts the hue of HD video. Reader and writer both
convert through this file, so a saturated colour survives a write and a read.
"""

import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

BT709, BT601, BT2020 = 1, 5, 9  # swscale's numbers (SWS_CS_*)
LIMITED, FULL = 1, 2  # AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG

# AVColorSpace -> swscale matrix. 2 is "unspecified", 8 is YCgCo, which swscale does not know as a matrix.
_MATRICES = {1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: BT2020, 10: BT2020}

# AVColorTransferCharacteristic values whose samples are not meant for an SDR screen.
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

# SWS_FULL_CHR_H_INT | SWS_ACCURATE_RND | SWS_BITEXACT: chroma interpolated to full width, rounded, the same on every
# CPU. Without them swscale darkens by up to 1.6 grey levels and loses 6 dB on a 4:2:0 round trip (44.7 against 50.8).
_EXACT = 0x2000 | 0x40000 | 0x80000
_SAME_SIZE = 0x2 | _EXACT  # bilinear, only chroma is interpolated: bicubic gains 0.2 dB and costs 60 % more time
_RESCALED = 0x4 | _EXACT  # bicubic


def colour_of(frame: VideoFrame) -> tuple[int, int]:
    """(matrix, range) of a decoded YUV or grey frame, in swscale's numbers; untagged video follows the usual rule.

    The rule: 720 lines or more (or 1280 columns) are BT.709, smaller is BT.601; `yuvj*` and grey are full range.
    """
    default = BT709 if frame.height >= 720 or frame.width >= 1280 else BT601
    matrix = _MATRICES.get(int(frame.colorspace), default)
    value_range = int(frame.color_range)
    if value_range not in (LIMITED, FULL):
        name = frame.format.name
        value_range = FULL if name.startswith(("yuvj", "gray", "ya")) else LIMITED
    return matrix, value_range


def transfer_of(frame: VideoFrame, context: VideoCodecContext) -> int:
    """The AVColorTransferCharacteristic of a decoded frame; before PyAV 16 only its decoder tells it."""
    return int(frame.color_trc if hasattr(frame, "color_trc") else context.color_trc)


def frame_to_rgb(frame: VideoFrame, reformatter: VideoReformatter, width: int, height: int) -> np.ndarray:
    """uint8 `[H, W, 3]` of a decoded frame at `width` x `height`; alpha is dropped, more than 8 bits are rounded."""
    if frame.format.name == "rgb24" and (frame.width, frame.height) == (width, height):
        return frame.to_ndarray()
    scaling = _SAME_SIZE if (frame.width, frame.height) == (width, height) else _RESCALED
    if frame.format.is_rgb or frame.format.has_palette:
        out = reformatter.reformat(frame, width, height, "rgb24", interpolation=scaling)
    else:
        matrix, value_range = colour_of(frame)
        out = reformatter.reformat(
            frame,
            width,
            height,
            "rgb24",
            src_colorspace=matrix,
            dst_colorspace=BT709 if matrix != BT709 else BT601,  # RGB has none, but PyAV 14 forgets the range if alike
            src_color_range=value_range,
            dst_color_range=FULL,
            interpolation=scaling,
        )
    return out.to_ndarray()


def rgb_to_frame(rgb: np.ndarray, reformatter: VideoReformatter, pixel_format: str) -> VideoFrame:
    """A frame of `pixel_format` from uint8 `[H, W, 3]`. YUV formats become BT.709 limited range; RGB ones are exact."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    if pixel_format == "rgb24":
        return frame
    if not pixel_format.startswith("yuv"):
        return reformatter.reformat(frame, format=pixel_format, interpolation=_SAME_SIZE)
    return reformatter.reformat(
        frame,
        format=pixel_format,
        src_colorspace=BT709,
        dst_colorspace=BT709,
        src_color_range=FULL,
        dst_color_range=LIMITED,
        interpolation=_SAME_SIZE,
    )
