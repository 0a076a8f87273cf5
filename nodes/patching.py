"""A MODEL that samples for less, in the order in which it is patched: Efficient Attention, Merge Redundant Tokens."""

from typing import Any

from ..host.api import io
from ..host.model_patches import patch_model
from ..models.attention_calls import Gate
from ..models.sparse_patch import SPARSE_KINDS, WINDOW_KERNELS, SparseRun, SparseSettings
from ..models.token_matching import MOST
from ..models.token_merging import MERGE_MODES, MergeRun, MergeSettings


def _gates(start: float, end: float, first: int, last: int, least: int) -> list[Any]:
    """Widgets that say where a patch works, with their defaults."""
    return [
        io.Float.Input(
            "start_percent",
            default=start,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="From this share of the sampling on. The steps before, where the picture is laid out, run dense.",
        ),
        io.Float.Input(
            "end_percent",
            default=end,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Up to this share of the sampling. The steps after, which make the details, run dense.",
        ),
        io.Int.Input(
            "first_blocks",
            default=first,
            min=0,
            max=1000,
            advanced=True,
            tooltip="How many of the model's first blocks run dense.",
        ),
        io.Int.Input(
            "last_blocks",
            default=last,
            min=0,
            max=1000,
            advanced=True,
            tooltip="How many of the model's last blocks run dense.",
        ),
        io.Int.Input(
            "min_tokens",
            default=least,
            min=0,
            max=10_000_000,
            advanced=True,
            tooltip="With fewer tokens in the video than this, everything runs dense: there is little to save.",
        ),
    ]


class EfficientAttention(io.ComfyNode):
    """A MODEL whose tokens see some of the others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_EfficientAttention",
            display_name="Efficient Attention",
            category="model/efficiency",
            description="Makes a video model attend to less: each tile of the video sees a window around it, or what "
            "fits it best. Works with any size, device and attention kernel. The log says what ran dense, and why.",
            search_aliases=[
                *("sparse attention", "sliding tile attention", "sta", "vsa", "radial attention", "window attention"),
                *("speed up wan", "speed up ltx", "speed up hunyuan", "faster video", "linear attention", "performer"),
            ],
            inputs=[
                io.Model.Input("model", tooltip="Wan, LTX-Video, HunyuanVideo, Cosmos or another video model."),
                io.Combo.Input(
                    "kind",
                    options=list(SPARSE_KINDS),
                    default="top-k",
                    tooltip="top-k: what fits best, chosen anew by each head; the rest is summed up. window: what "
                    "is near in time and space; less work for the same density, and further from the model's result. "
                    "linear, performer: experimental, for models trained with them; others give noise.",
                ),
                io.Float.Input(
                    "density",
                    default=0.15,
                    min=0.02,
                    max=1.0,
                    step=0.01,
                    tooltip="The share of the video's tokens that a tile sees. Lower is faster and further from the "
                    "model's own result; at 1 nothing changes.",
                ),
                io.Boolean.Input(
                    "first_frame",
                    default=True,
                    tooltip="All tokens see the first frame, which image-to-video relies on. Text is always seen.",
                ),
                *_gates(0.15, 1.0, 1, 1, 8192),
                io.Combo.Input(
                    "kernel",
                    options=list(WINDOW_KERNELS),
                    default="tiles",
                    optional=True,
                    advanced=True,
                    tooltip="What computes windows. tiles: the attention that the model has. flex: torch's "
                    "FlexAttention, for GPUs; compiling it takes up to a minute the first time for each size, and "
                    "needs a compiler. Where it fails or is not faster, the log says so and tiles are used.",
                ),
                io.Boolean.Input(
                    "summary",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="top-k: what a tile does not see is summed up, one key for each cube of 32 tokens. Much "
                    "closer to the model's own result. Off where a kernel of few bits, as SageAttention, is to "
                    "be used, which does not know these heads.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The same weights, patched; the source stays.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        kind: Any,
        density: float,
        first_frame: bool,
        start_percent: float,
        end_percent: float,
        first_blocks: int,
        last_blocks: int,
        min_tokens: int,
        kernel: Any = "tiles",
        summary: bool = True,
    ) -> io.NodeOutput:
        settings = SparseSettings(kind, density, first_frame=first_frame, kernel=kernel, summary=summary)

        def start(first: float, last: float) -> SparseRun:
            return SparseRun(settings, Gate(first, last, first_blocks, last_blocks, min_tokens))

        return io.NodeOutput(patch_model(model, start, percents=(start_percent, end_percent)))


class MergeTokens(io.ComfyNode):
    """A MODEL that leaves out tokens that say what the frame before said."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_MergeTokens",
            display_name="Merge Redundant Tokens",
            category="model/efficiency",
            description="Lets one token stand for those around it, in time and in space, that hardly differ from it. "
            "Still and even places cost less. The log says how much was merged, and what ran dense.",
            search_aliases=[
                *("token merging", "tome", "tomesd", "token reduction", "token pruning", "temporal redundancy"),
                *("speed up wan", "speed up ltx", "speed up hunyuan", "faster video", "static background"),
            ],
            inputs=[
                io.Model.Input("model", tooltip="Wan, LTX-Video, HunyuanVideo, Cosmos or another video model."),
                io.Combo.Input(
                    "mode",
                    options=list(MERGE_MODES),
                    default="keys",
                    tooltip="keys: every token still asks, fewer answer; attention costs less. blocks: whole blocks "
                    "work on fewer tokens; much faster, further from the model's own result; not for Cosmos.",
                ),
                io.Float.Input(
                    "ratio",
                    default=0.5,
                    min=0.0,
                    max=MOST,
                    step=0.01,
                    tooltip="At most this share of the tokens is left out. At 0 nothing changes.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.9,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How alike tokens must be, as a cosine: 1 is equal. With less, more are merged.",
                ),
                io.Int.Input(
                    "refresh",
                    default=0,
                    min=0,
                    max=1000,
                    advanced=True,
                    tooltip="One latent frame in so many is kept whole, so that nothing stands still for longer. 0: "
                    "only the first.",
                ),
                io.Float.Input(
                    "protect",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="This share of the tokens is kept: those where the prompt changed most in the step before. "
                    "Needs a CFG above 1.",
                ),
                *_gates(0.0, 0.7, 2, 2, 2048),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The same weights, patched; the source stays.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        mode: Any,
        ratio: float,
        threshold: float,
        refresh: int,
        protect: float,
        start_percent: float,
        end_percent: float,
        first_blocks: int,
        last_blocks: int,
        min_tokens: int,
    ) -> io.NodeOutput:
        settings = MergeSettings(mode, ratio, threshold, refresh, protect)

        def start(first: float, last: float) -> MergeRun:
            return MergeRun(settings, Gate(first, last, first_blocks, last_blocks, min_tokens))

        percents = (start_percent, end_percent)
        # sparse attention chooses among the keys that are left, whichever of the two nodes comes first
        return io.NodeOutput(patch_model(model, start, percents=percents, blocks=mode == "blocks", asked_first=True))
