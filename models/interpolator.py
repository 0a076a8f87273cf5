"""Frames between two frames: a small flow network, and a mode that needs no weights.

The network is an IFNet as in RIFE 4.25 (Huang et al., ECCV 2022, arXiv 2011.06294; Practical-RIFE): five blocks from
coarse to fine estimate the flow from the frame in between to both neighbours and a mask that blends the two warped
neighbours. Its tensors have the names and shapes of that family, so that ComfyUI's own loader opens our file, and the
arithmetic is the same; only the order is another one: what a coarse block would throw away is not computed.

Frames are `[B, 3, H, W]` in [0, 1] here, as that family has them, not [-1, 1]. Times are from 0, the first frame, to 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .flow_search import STEPS, find_motion, flow_at, local_mean, pixel_grid, sample
from .network_config import NetworkConfig

SCALES = (16, 8, 4, 2, 1)
ALIGN = 64
"""Height and width that a network sees are multiples of this."""
_AGREEMENT = 12 / 255  # where both frames differ by this along the motion, fine detail counts 1/e
AT_ONCE = 1_000_000
"""Pixels in between that are computed together, as far as it is more than one frame."""
_FEATURES = 8  # channels that a block hands to the next one, beside flow and mask


class Interpolator(Protocol):
    """Frames between two frames."""

    def prepare(self, frame: Tensor) -> Any:
        """What may be kept of a frame `[1, 3, H, W]` in [0, 1] while it is in two pairs; None if there is nothing."""
        ...

    def between(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> Tensor:
        """The frames at `times`, each above 0 and below 1, between `[1, 3, H, W]` and `[1, 3, H, W]`, in [0, 1].

        Returns `[len(times), 3, H, W]`. `features` is what `prepare` gave for the two.
        """
        ...


class MotionInterpolator(Interpolator, Protocol):
    """One that tells the motion along which it mixes two frames."""

    def paths(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `blend` makes the frames at `times` of: flows `[len(times), 4, H, W]` in pixels, and shares of the first
        frame `[len(times), 1, H, W]`. Arguments are those of `between`.
        """
        ...


@dataclass(frozen=True)
class InterpolatorConfig(NetworkConfig):
    """Sizes of an IFNet: channels of the features of a frame, and widths of the five blocks from coarse to fine."""

    head: int = 4
    widths: tuple[int, ...] = (96, 64, 48, 32, 16)

    def __post_init__(self) -> None:
        if self.head < 1 or len(self.widths) != len(SCALES) or any(width < 2 or width % 2 for width in self.widths):
            raise ValueError(f"Invalid sizes: {self}. The head is at least 1; five even widths are needed.")


class _Head(nn.Module):
    """Features of a frame at its full size."""

    def __init__(self, channels: int, operations: Any):
        super().__init__()
        self.cnn0 = operations.Conv2d(3, 16, 3, 2, 1)
        self.cnn1 = operations.Conv2d(16, 16, 3, 1, 1)
        self.cnn2 = operations.Conv2d(16, 16, 3, 1, 1)
        self.cnn3 = operations.ConvTranspose2d(16, channels, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.cnn0, self.cnn1, self.cnn2):
            x = F.leaky_relu(layer(x), 0.2)
        return self.cnn3(x)


class _Residual(nn.Module):
    def __init__(self, channels: int, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, 1, 1)
        self.beta = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(torch.addcmul(x, self.conv(x), self.beta), 0.2)


class _Block(nn.Module):
    """What is seen at one scale -> at that scale: flow in its pixels (4), mask (1), features (8)."""

    def __init__(self, channels: int, width: int, operations: Any):
        super().__init__()
        self.conv0 = nn.Sequential(
            nn.Sequential(operations.Conv2d(channels, width // 2, 3, 2, 1), nn.LeakyReLU(0.2)),
            nn.Sequential(operations.Conv2d(width // 2, width, 3, 2, 1), nn.LeakyReLU(0.2)),
        )
        self.convblock = nn.Sequential(*(_Residual(width, operations) for _ in range(8)))
        self.lastconv = nn.Sequential(
            operations.ConvTranspose2d(width, 4 * (5 + _FEATURES), 4, 2, 1), nn.PixelShuffle(2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flow, rest = self.lastconv(self.convblock(self.conv0(x))).split((4, 1 + _FEATURES), 1)
        return flow, rest


def _grow(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear")


def _seen(x: Tensor, scale: int) -> Tensor:
    """The pixels that shrinking by `scale` looks at, two by two in the middle of each square of `scale` pixels."""
    if scale <= 2:
        return x
    B, C, H, W = x.shape
    low, n = scale // 2 - 1, 2
    x = x.view(B, C, H // scale, scale, W // scale, scale)[:, :, :, low : low + n, :, low : low + n]
    return x.reshape(B, C, n * H // scale, n * W // scale)


def _shrink_seen(x: Tensor, scale: int) -> Tensor:
    return x if scale == 1 else F.avg_pool2d(x, 2)


class IFNet(nn.Module):
    """Flow from the frame in between to its two neighbours, and the frame."""

    def __init__(self, config: InterpolatorConfig | None = None, operations: ModuleType | Any = nn):
        super().__init__()
        self.config = config or InterpolatorConfig()
        head, widths = self.config.head, self.config.widths
        self.encode = _Head(head, operations)
        channels = [7 + 2 * head] + [4 + 7 + 1 + _FEATURES + 2 * head] * 4
        self.blocks = nn.ModuleList(_Block(c, w, operations) for c, w in zip(channels, widths, strict=True))

    def estimate(
        self, first: Tensor, second: Tensor, time: Tensor, features: tuple[Tensor, Tensor], start: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Flows `[B, 4, H, W]` after each block, in pixels, (x, y) to the first and to the second; logits of the mask.

        H and W are multiples of 64. `time` is `[B, 1, 1, 1]`. With a flow to `start` from, the first block is left out.
        """
        B, _, H, W = first.shape
        grid = pixel_grid(H, W, first)
        pair = (torch.cat([first, features[0]], 1), torch.cat([second, features[1]], 1))
        flow, flows = start, []
        rest = first.new_zeros(B, 1 + _FEATURES, H // SCALES[0], W // SCALES[0])
        for scale, block in zip(SCALES, self.blocks, strict=True):
            if scale == SCALES[0]:
                if start is not None:
                    continue
                small = [_shrink_seen(_seen(each, scale), scale) for each in pair]
                ahead: list[Tensor] = []
            else:
                assert flow is not None  # the first block gives one
                moved, places = _seen(flow, scale), _seen(grid, scale)
                small = [
                    _shrink_seen(sample(each, places + moved[:, 2 * i : 2 * i + 2]), scale)
                    for i, each in enumerate(pair)
                ]
                ahead = [_grow(rest, 2), _shrink_seen(moved, scale) / scale]
            now = time.to(first.dtype).expand(B, 1, H // scale, W // scale)
            seen = [small[0][:, :3], small[1][:, :3], small[0][:, 3:], small[1][:, 3:], now, *ahead]
            step, rest = block(torch.cat(seen, 1))
            step = _grow(step.float(), scale) * scale
            flow = step if flow is None else flow + step
            flows.append(flow)
        return flows, rest[:, :1].float()

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        time: Tensor,
        features: tuple[Tensor, Tensor] | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """The frame in between `[B, 3, H, W]` as the family mixes it, and what `estimate` gives."""
        if features is None:
            features = self.encode(first), self.encode(second)
        flows, mask = self.estimate(first, second, time, features, start)
        return mix(first, second, flows[-1], torch.sigmoid(mask)), flows, mask


def pad(frame: Tensor, align: int = ALIGN) -> Tensor:
    """Height and width up to multiples of `align`, the last row and column repeated."""
    H, W = frame.shape[-2:]
    return F.pad(frame, (0, -W % align, 0, -H % align), mode="replicate")


def _moments(times: Sequence[float], like: Tensor) -> Tensor:
    """`[T, 1, 1, 1]`; ValueError for a time that is not in between."""
    if not times or not all(0 < time < 1 for time in times):
        raise ValueError(f"Invalid times {list(times)[:8]}. At least one is needed, each above 0 and below 1.")
    return torch.tensor(list(times), dtype=torch.float32, device=like.device).view(-1, 1, 1, 1)


def _joined(found: Iterable[tuple[Tensor, Tensor]], frame: Tensor) -> tuple[Tensor, Tensor]:
    """All flows and shares, without what `frame` was padded by."""
    H, W = frame.shape[-2:]
    flows, shares = zip(*found, strict=True)
    return torch.cat(flows)[:, :, :H, :W], torch.cat(shares)[:, :, :H, :W]


def _together(moments: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """The moments in groups that are computed together: the memory that takes does not grow with their number."""
    return moments.split(max(1, AT_ONCE // (like.shape[-2] * like.shape[-1])))


def _check_pair(first: Tensor, second: Tensor) -> None:
    if first.ndim != 4 or first.shape[:2] != (1, 3) or first.shape != second.shape:
        shapes = tuple(first.shape), tuple(second.shape)
        raise ValueError(f"Invalid frames of shapes {shapes}. Both are [1, 3, H, W] and of one size.")


class BlendInterpolator:
    """Cross-fades: no motion. The baseline, and what a dissolve needs."""

    def prepare(self, frame: Tensor) -> None:
        """Nothing is kept."""

    def between(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> Tensor:
        """As Interpolator.between."""
        _check_pair(first, second)
        return torch.lerp(first, second, _moments(times, first).to(first.dtype))

    def paths(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As MotionInterpolator.paths: nothing moves."""
        _check_pair(first, second)
        moments, (H, W) = _moments(times, first), first.shape[-2:]
        return moments.new_zeros(len(moments), 4, H, W), (1 - moments).expand(-1, 1, H, W)


def mix(first: Tensor, second: Tensor, flow: Tensor, share: Tensor) -> Tensor:
    """Both frames moved by `[B, 4, H, W]` and mixed, the first by `share` `[B, 1, H, W]`, as this family mixes them."""
    grid = pixel_grid(flow.shape[-2], flow.shape[-1], flow)
    return torch.lerp(sample(second, grid + flow[:, 2:]), sample(first, grid + flow[:, :2]), share)


def blend(first: Tensor, second: Tensor, flow: Tensor, share: Tensor) -> Tensor:
    """Both frames moved by `[B, 4, H, W]` and mixed, the first by `share` `[B, 1, H, W]`; `[B, 3, H, W]` in [0, 1].

    Bicubic samples keep detail where both agree; where they do not, smoother ones are nearer to what was there.
    """
    grid = pixel_grid(flow.shape[-2], flow.shape[-1], flow)
    to_first, to_second = grid + flow[:, :2], grid + flow[:, 2:]
    one, two = sample(first, to_first), sample(second, to_second)
    agree = torch.exp(-local_mean((one - two).abs().mean(1, keepdim=True), 5) / _AGREEMENT)
    sharp = torch.lerp(sample(second, to_second, "bicubic"), sample(first, to_first, "bicubic"), share)
    return torch.lerp(torch.lerp(two, one, share), sharp, agree).clamp(0, 1)


class FlowInterpolator:
    """Follows the motion that `find_motion` finds, and blends along it. Needs no weights."""

    networks = (STEPS,)

    def prepare(self, frame: Tensor) -> None:
        """Nothing is kept."""

    @torch.inference_mode()
    def between(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> Tensor:
        """As Interpolator.between."""
        H, W = first.shape[-2:]
        one, two = pad(first, 16), pad(second, 16)
        made = [
            blend(one.expand(len(flow), -1, -1, -1), two.expand(len(flow), -1, -1, -1), flow, share)[:, :, :H, :W]
            for flow, share in self._found(first, second, times)
        ]
        return torch.cat(made)

    @torch.inference_mode()
    def paths(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As MotionInterpolator.paths."""
        return _joined(self._found(first, second, times), first)

    def _found(self, first: Tensor, second: Tensor, times: Sequence[float]) -> Iterator[tuple[Tensor, Tensor]]:
        """Flows and shares of padded frames, those together that are computed together."""
        _check_pair(first, second)
        motion = find_motion(pad(first, 16), pad(second, 16))
        for some in _together(_moments(times, first), first):
            yield flow_at(motion, some)


class NetInterpolator:
    """An IFNet that starts from the flow of `find_motion`; if not `started`, all comes from the network."""

    def __init__(self, net: IFNet, started: bool = True):
        self.net, self.started, self.networks = net, started, (net, STEPS)

    @torch.inference_mode()
    def prepare(self, frame: Tensor) -> Tensor:
        """The features of a frame, padded."""
        return self.net.encode(pad(frame))

    @torch.inference_mode()
    def between(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> Tensor:
        """As Interpolator.between."""
        H, W = first.shape[-2:]
        one, two, mixed = pad(first), pad(second), blend if self.started else mix
        made = [
            mixed(one.expand(len(flow), -1, -1, -1), two.expand(len(flow), -1, -1, -1), flow, share)[:, :, :H, :W]
            for flow, share in self._found(first, second, times, features)
        ]
        return torch.cat(made).clamp_(0, 1)

    @torch.inference_mode()
    def paths(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As MotionInterpolator.paths."""
        return _joined(self._found(first, second, times, features), first)

    def _found(
        self, first: Tensor, second: Tensor, times: Sequence[float], features: tuple[Any, Any] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Flows and shares of padded frames, those together that are computed together."""
        _check_pair(first, second)
        moments, features = _moments(times, first), features or (self.prepare(first), self.prepare(second))
        # on frames that are hardly padded: what is repeated beyond the edge misleads the search
        motion = find_motion(pad(first, 16), pad(second, 16)) if self.started else None
        for some in _together(moments, first):
            many = (len(some), -1, -1, -1)
            pair = features[0].expand(many), features[1].expand(many)
            one, two = pad(first).expand(many), pad(second).expand(many)
            start = None if motion is None else pad(flow_at(motion, some)[0])
            flows, mask = self.net.estimate(one, two, some, pair, start)
            yield flows[-1], torch.sigmoid(mask)
