"""Which layers of known models keep their floating weights: those that all others depend on, and that cost little.

Embeddings, what goes in and comes out, and modulation are a few percent of a video model's weights and decide about
every token; every quantized release of these models leaves them alone.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

LEAST_SIDE = 64
"""A layer with fewer inputs or outputs is not worth its scales."""


@dataclass(frozen=True)
class Preset:
    """What is left alone in a family of models, as patterns that are looked for in the names of layers."""

    title: str
    marks: tuple[str, ...]
    """Names of tensors that only this family has: all of them are there. Empty: any model."""
    kept: tuple[str, ...]


_ANYWHERE = (
    r"(^|[._])(norm|norms|embedder|embedders|embedding|embeddings|embed|modulation|adaln\w*|final_layer|lm_head)([._]|$)",
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "wan": Preset(
            "Wan",
            ("blocks.0.self_attn.q.weight", "head.modulation"),
            (r"(^|\.)(patch|text|time)_embedding\.", r"(^|\.)(time_projection|head|img_emb|ref_conv)\."),
        ),
        "ltx": Preset(
            "LTX-Video",
            ("transformer_blocks.0.attn1.to_q.weight", "patchify_proj.weight"),
            (r"patchify_proj", r"adaln_single", r"caption_projection", r"^(audio_)?proj_out", r"connector"),
        ),
        "hunyuan": Preset(
            "HunyuanVideo",
            ("double_blocks.0.img_attn.qkv.weight", "txt_in.individual_token_refiner.blocks.0.self_attn.qkv.weight"),
            (r"^(img|txt|time|vector|guidance|byt5|vision)_in\.", r"final_layer", r"(img|txt)_mod\.", r"modulation\."),
        ),
        "cosmos": Preset(
            "Cosmos",
            ("x_embedder.proj.1.weight",),
            (r"_embedder", r"final_layer", r"adaln_modulation", r"adaLN_modulation", r"^t_embed"),
        ),
        "generator": Preset(
            "TokenReel's generator",
            ("digits.look.weight", "place.weight"),
            (r"^(told|place)\b", r"^digits\.(earlier|out|offset)\b"),
        ),
        "any": Preset("another model", (), (r"^\w+$",)),  # what lies in no block
    }
)
"""By name; the first whose marks are all there is the model's."""


def find_preset(names: Iterable[str]) -> str:
    """The name of the preset for a model with tensors of these names."""
    known = set(names)
    return next(name for name, preset in PRESETS.items() if known.issuperset(preset.marks))


@dataclass(frozen=True)
class LayerFilter:
    """Says of layers whether they may be quantized."""

    preset: str = "any"
    kept: tuple[str, ...] = ()
    """More patterns, besides those of the preset."""
    first_blocks: int = 0
    last_blocks: int = 0
    """How many of the model's first and last blocks are left alone."""
    least_side: int = LEAST_SIDE
    _patterns: tuple[re.Pattern[str], ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"Invalid preset {self.preset[:40]!r}. Supported are {', '.join(PRESETS)}.")
        try:
            patterns = tuple(re.compile(each) for each in (*_ANYWHERE, *PRESETS[self.preset].kept, *self.kept))
        except re.error as error:
            raise ValueError(f"Invalid pattern of layers ({error}). Write part of a layer's name.") from error
        object.__setattr__(self, "_patterns", patterns)

    def __call__(self, name: str, shape: tuple[int, ...], blocks: Mapping[str, int] | None = None) -> bool:
        """Whether the layer of that name may be quantized. blocks: of `count_blocks`."""
        if len(shape) != 2 or min(shape) < self.least_side or any(each.search(name) for each in self._patterns):
            return False
        stack, number = _block(name)
        count = (blocks or {}).get(stack, 0)
        return number is None or not count or self.first_blocks <= number < count - self.last_blocks


def count_blocks(names: Iterable[str]) -> dict[str, int]:
    """How many blocks each stack of a model has."""
    counts: dict[str, int] = {}
    for name in names:
        stack, number = _block(name)
        if number is not None:
            counts[stack] = max(counts.get(stack, 0), number + 1)
    return counts


def _block(name: str) -> tuple[str, int | None]:
    found = re.match(r"(?:diffusion_model\.)?(\w*(?:blocks|layers))\.(\d+)\.", name)
    return (found[1], int(found[2])) if found else ("", None)
