"""What the commands on other people's models do: arguments in, facts out, by the keys of `--json`.

Nothing is printed here. Outputs appear when they are whole.
"""

from __future__ import annotations

import argparse
from fractions import Fraction

from .commands import Facts, Tell, output_file


def plan(args: argparse.Namespace, tell: Tell) -> Facts:
    """What a video costs a model, and how the same costs less. `table` has it all for people."""
    from .models.model_families import find_family
    from .models.token_budget import LEAST_RATE, LEAST_SIDE, Target, describe_budget, plan_budget

    picture = output_file(args.plot, (".png",)) if args.plot else None
    width, height = args.size
    budget = plan_budget(
        find_family(args.family),
        Target(width, height, Fraction(str(args.seconds)), args.fps),
        least_side=args.least_short_side or LEAST_SIDE,
        least_rate=args.least_fps or LEAST_RATE,
        share=args.share,
    )
    if picture:
        import io

        from PIL import Image

        from .host.files import write_whole
        from .nodes.planning import draw_budget

        drawn = io.BytesIO()
        Image.fromarray(draw_budget(budget)).save(drawn, "PNG")
        write_whole(picture, drawn.getvalue())
    return {"family": args.family, **budget.report(), "table": describe_budget(budget)}
