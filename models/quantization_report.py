"""What became of a model that was quantized: sizes, errors layer by layer, and what it took."""

from dataclasses import dataclass, field

from .mixed_precision import KEPT, model_error
from .quantized_formats import FORMATS

_WORST = 5  # layers that are named


@dataclass(frozen=True)
class LayerReport:
    """What became of a layer."""

    name: str
    kind: str
    """Its format, or `kept`."""
    shape: tuple[int, int]
    nbytes_before: int
    nbytes: int
    error: float
    """Relative, of what it gives where its inputs were recorded, of its weight where not."""


@dataclass
class QuantizationReport:
    """What became of a model."""

    nbytes_before: int
    """Of all of its tensors."""
    nbytes: int
    layers: list[LayerReport]
    seconds: float
    measured: bool
    """Whether errors are those of outputs, on recorded inputs."""
    notes: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.nbytes / self.nbytes_before if self.nbytes_before else 1.0

    @property
    def error(self) -> float:
        return model_error([layer.error for layer in self.layers])

    def counts(self) -> dict[str, int]:
        """How many layers have which format."""
        found: dict[str, int] = {}
        for layer in self.layers:
            found[layer.kind] = found.get(layer.kind, 0) + 1
        return found


def describe_quantization(report: QuantizationReport) -> str:
    """Lines of text."""
    quantized = [layer for layer in report.layers if layer.kind != KEPT]
    parts = [f"{count} in {kind}" if kind in FORMATS else f"{count} {kind}" for kind, count in report.counts().items()]
    of = "what the layers give, on recorded inputs" if report.measured else "the weights alone"
    lines = [
        f"{_size(report.nbytes_before)} to {_size(report.nbytes)} ({report.share:.1%})",
        f"Linear layers: {', '.join(parts) or 'none that is quantized'}",
        f"Relative error of {of}: {report.error:.2%}, root mean square over the layers",
    ]
    worst = sorted(quantized, key=lambda layer: -layer.error)[:_WORST]
    lines += [f"  {layer.error:.2%} {layer.name}, {layer.kind}" for layer in worst]
    return "\n".join([*lines, *(f"Note: {note}." for note in report.notes), f"{report.seconds:.1f} s in all"])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
