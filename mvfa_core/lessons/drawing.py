"""Boxes and arrows for the drawn figures: bottleneck, gradient flow, cheat sheet."""

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

LINE = "#555555"


def box(
    axis: Axes,
    centre: tuple[float, float],
    size: tuple[float, float],
    text: str = "",
    colour: str = LINE,
    fontsize: float = 10,
    ink: str = "white",
    pad: float = 0.03,
    **options,
) -> None:
    """A filled box with rounded corners around `centre`, in the axis' own units; `options` go to the patch."""
    (x, y), (width, height) = centre, size
    style = f"round,pad={pad}"
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle=style,
            **{"facecolor": colour, "linewidth": 0} | options,
        )
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=fontsize, color=ink)


def arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str = LINE,
    width: float = 1.5,
    bend: float = 0.0,
    **options,
) -> None:
    """An arrow of `width` points from `start` to `end`; `bend` is matplotlib's arc3 radius."""
    axis.add_patch(
        FancyArrowPatch(
            start,
            end,
            **{
                "arrowstyle": "-|>",
                "mutation_scale": 12,
                "color": colour,
                "linewidth": width,
                "connectionstyle": f"arc3,rad={bend}",
                "shrinkA": 2,
                "shrinkB": 2,
            }
            | options,
        )
    )
