"""What a video costs a model, before it is made: Plan Token Budget."""

from fractions import Fraction
from typing import Any

from ..host.api import io, ui
from ..models.model_families import FAMILIES, find_family
from ..models.token_budget import LEAST_RATE, LEAST_SIDE, Budget, Target, describe_budget, plan_budget
from ..video.cost_plot import cost_plot
from ..video.frame_rates import exact_frame_rate
from .sources import to_images


def _wishes() -> list[Any]:
    """Widgets that say what is wanted in the end."""
    return [
        io.Combo.Input(
            "family",
            options=list(FAMILIES),
            default="wan2.1",
            tooltip="What the model is. wan2.1, wan2.2: those of 14B. generic: a common shape, for models that are "
            "not listed; its shares and ratios are about right.",
        ),
        io.Int.Input("width", default=1280, min=16, max=16384, step=2, tooltip="Pixels across, in the end."),
        io.Int.Input("height", default=720, min=16, max=16384, step=2, tooltip="Pixels down, in the end."),
        io.Float.Input(
            "seconds", default=5.0, min=0.04, max=3600.0, step=0.1, tooltip="Length of the video in seconds."
        ),
        io.Float.Input(
            "fps", default=30.0, min=1.0, max=240.0, step=0.01, tooltip="Frames per second, in the end. 29.97 is exact."
        ),
    ]


def _limits() -> list[Any]:
    """Widgets that say how far a plan may go."""
    return [
        io.Int.Input(
            "least_short_side",
            default=LEAST_SIDE,
            min=16,
            max=16384,
            step=16,
            tooltip="The model makes no frames whose shorter side is smaller, in pixels. Most models lose faces and "
            "text below 480.",
        ),
        io.Float.Input(
            "least_fps",
            default=float(LEAST_RATE),
            min=1.0,
            max=240.0,
            step=0.5,
            tooltip="The model makes no fewer frames a second. The faster things move, the more interpolation needs.",
        ),
        io.Float.Input(
            "share",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="What it may cost, of making the video directly: the best plan within that is chosen. 0: the "
            "cheapest that the two limits above allow.",
        ),
    ]


class PlanTokenBudget(io.ComfyNode):
    """Numbers to wire."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TokenReel_PlanTokenBudget",
            display_name="Plan Token Budget",
            category="model/efficiency",
            description="How many tokens a video takes in a model, how much of a step is attention, and how the same "
            "video costs less: made smaller and at a lower rate, then interpolated and upscaled. Gives the numbers.",
            search_aliases=[
                "token count",
                "how many tokens",
                "cost calculator",
                "plan generation",
                "empty latent size",
            ],
            is_output_node=True,
            inputs=[*_wishes(), *_limits()],
            outputs=[
                io.Int.Output(display_name="width", tooltip="Pixels across that the model is to make."),
                io.Int.Output(display_name="height", tooltip="Pixels down that the model is to make."),
                io.Int.Output(display_name="frames", tooltip="Frames that it is to make: the length of the latents."),
                io.Float.Output(display_name="fps", tooltip="Frames per second that these are to be played at."),
                io.Float.Output(display_name="scale", tooltip="For Upscale Video: how many times as large after that."),
                io.Int.Output(display_name="times", tooltip="For Interpolate Video: so many frames for each one."),
                io.Int.Output(
                    display_name="final_width",
                    tooltip="The width above, for Upscale Video with target exact size: models round sides up, and "
                    "scale alone would keep what is over.",
                ),
                io.Int.Output(display_name="final_height", tooltip="The height above, for the same."),
                io.String.Output(display_name="table", tooltip="Every way that was weighed, with tokens and cost."),
                io.Image.Output(display_name="plot", tooltip="The cost of each way, and how much of it is attention."),
            ],
        )

    @classmethod
    def execute(
        cls,
        family: str,
        width: int,
        height: int,
        seconds: float,
        fps: float,
        least_short_side: int,
        least_fps: float,
        share: float,
    ) -> io.NodeOutput:
        target = Target(width, height, Fraction(str(round(seconds, 4))), exact_frame_rate(fps))
        limits = {"least_side": least_short_side, "least_rate": exact_frame_rate(least_fps), "share": share or None}
        budget = plan_budget(find_family(family), target, **limits)
        plan, table, plot = budget.chosen, describe_budget(budget), to_images([draw_budget(budget)[None]])
        made = plan.width, plan.height, plan.frames, float(plan.rate)
        afterwards = float(plan.scale), plan.times, target.width, target.height
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), "text": (table,)}
        return io.NodeOutput(*made, *afterwards, table, plot, ui=shown)


def draw_budget(budget: Budget) -> Any:
    """uint8 `[H, W, 3]`: a bar for each plan, in the order of the table."""
    names = [f"{plan.width} x {plan.height}, {plan.frames} frames, then {plan.afterwards}" for plan in budget.plans]
    parts = {
        "attention": [float(plan.cost.scores) for plan in budget.plans],
        "projections": [float(plan.cost.projections) for plan in budget.plans],
        "feed-forward": [float(plan.cost.ffn) for plan in budget.plans],
    }
    chosen = budget.plans.index(budget.chosen)
    return cost_plot(names, parts, title=f"{budget.family.title}: one step", chosen=chosen)
