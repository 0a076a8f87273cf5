"""What ComfyUI sees: the extension with the nodes in menu order."""

from ..host.api import ComfyExtension, io
from ..host.files import register_model_folders
from .compressing import LoadModel, QuantizeModel, SaveModel
from .generating import GenerateTokens, LoadGenerator
from .inspecting import InspectTokens
from .interpolating import InterpolateVideo
from .measuring import MeasureQuality
from .patching import EfficientAttention, MergeTokens
from .planning import PlanTokenBudget
from .plotting import PlotRateDistortion
from .probing import ProbeFidelity
from .pruning import PruneModel
from .residual import EncodeResidual
from .sampling import DetectShots, SampleFrames
from .storing import LoadTokens, SaveTokens
from .tokenizing import DecodeTokens, EncodeVideo, LoadTokenizer
from .upscaling import UpscaleVideo

__all__ = ["NODES", "TokenReelExtension"]

NODES: list[type[io.ComfyNode]] = [
    SampleFrames,
    DetectShots,
    LoadTokenizer,
    EncodeVideo,
    EncodeResidual,
    DecodeTokens,
    SaveTokens,
    LoadTokens,
    InspectTokens,
    LoadGenerator,
    GenerateTokens,
    MeasureQuality,
    PlotRateDistortion,
    InterpolateVideo,
    UpscaleVideo,
    PlanTokenBudget,
    EfficientAttention,
    MergeTokens,
    ProbeFidelity,
    QuantizeModel,
    PruneModel,
    SaveModel,
    LoadModel,
]


class TokenReelExtension(ComfyExtension):
    """The pack, as ComfyUI and the embedded host ask for it."""

    async def on_load(self) -> None:
        """Make the folders for weights known."""
        register_model_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes in menu order."""
        register_model_folders()  # ComfyUI 0.3.64 does not call on_load
        return list(NODES)
