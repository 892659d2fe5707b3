"""What all lessons share: colours, small drawing helpers, folded exercises, and the door to the demo."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import seaborn as sns
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mvfa_core.errors import MvfaError
from mvfa_core.experiment import Experiment
from mvfa_core.figures import COLOURS as METHOD_COLOURS
from mvfa_core.figures import FEW_SHOT_COLOURS, HEAT, OUTLINE, bare, outline
from mvfa_core.settings import Settings, load_settings

__all__ = [
    "COLOURS",
    "HEAT",
    "OUTLINE",
    "bare",
    "canvas",
    "exercise",
    "find_project",
    "image_rows",
    "level_colours",
    "open_demo",
    "picture",
    "show_image",
    "show_map",
]

# one colour a thing, in every lesson and in the cheat sheet; methods keep the report's (Okabe and Ito, Tol)
COLOURS = METHOD_COLOURS | {
    "few-shot": FEW_SHOT_COLOURS[0],
    "normal": "#56b4e9",
    "abnormal": "#e69f00",
    "seg": "#009e73",
    "det": "#cc79a7",
    "text": "#6a3d9a",
    "frozen": "#b8c4cf",
    "chance": "#bbbbbb",
}


def level_colours(count: int) -> list[str]:
    """One colour a level, dark for the first and light for the last; readable on white and in grey."""
    shades = matplotlib.colormaps["cividis"](np.linspace(0, 0.85, count))
    return [matplotlib.colors.to_hex(shade) for shade in shades]


def canvas(rows: int = 1, columns: int = 1, width: float = 8, height: float = 3, **options):
    """A figure of `width` x `height` inches and its axes, (rows, columns) of them; one alone comes bare.

    `options` go to `Figure.subplots`, such as `sharey=True`.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    sns.despine(figure)
    return figure, (axes[0, 0] if rows == columns == 1 else axes)


def picture(image: Tensor | np.ndarray) -> np.ndarray:
    """(3, S, S) or (S, S, 3), in [0, 1] or uint8 -> (S, S, 3), as matplotlib takes it."""
    image = np.asarray(image)
    return image.transpose(1, 2, 0) if image.shape[0] == 3 and image.shape[-1] != 3 else image


def show_image(axis: Axes, image: Tensor | np.ndarray, title: str = "", mask: Tensor | None = None) -> Axes:
    """Draw an image, outlined by `mask` (S, S) in {0, 1} where there is one."""
    bare(axis).imshow(picture(image))
    axis.set_title(title, fontsize=10)
    _outline(axis, mask)
    return axis


def show_map(
    axis: Axes,
    anomaly_map: Tensor | np.ndarray,
    title: str = "",
    mask: Tensor | None = None,
    span: tuple[float, float] | None = None,
):
    """Draw an anomaly map (S, S) on the colour scale `span`, and give the drawn image back for a colour bar.

    Maps that are to be compared need the same `span`; by default each is stretched to its own.
    """
    low, high = span or (None, None)
    drawn = bare(axis).imshow(np.asarray(anomaly_map), cmap=HEAT, vmin=low, vmax=high)
    axis.set_title(title, fontsize=10)
    _outline(axis, mask)
    return drawn


def image_rows(
    images: Sequence[Tensor],
    maps: Sequence[Tensor],
    titles: Sequence[str],
    masks: Sequence[Tensor] | None = None,
    span: tuple[float, float] | None = (0, 1),
    names: tuple[str, str] = ("image", "anomaly map"),
) -> Figure:
    """Images above their anomaly maps, all maps on one scale, the masks' outlines on both.

    Args:
        images: N of (3, S, S).
        maps: N of (S, S).
        titles: one above each image.
        masks: N of (S, S) in {0, 1}, or None.
        span: of the colour scale.
        names: of the two rows.
    """
    figure, axes = canvas(2, len(images), 1.5 * len(images) + 0.6, 3.5)
    for column, (image, anomaly_map, title) in enumerate(zip(images, maps, titles, strict=True)):
        mask = None if masks is None else masks[column]
        show_image(axes[0][column], image, title, mask)
        drawn = show_map(axes[1][column], anomaly_map, mask=mask, span=span)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=10)
    figure.colorbar(drawn, ax=list(axes[1]), fraction=0.05, pad=0.01)
    return figure


def _outline(axis: Axes, mask: Tensor | np.ndarray | None) -> None:
    if mask is not None:
        outline(axis, np.asarray(mask), width=1.2)


def exercise(question: str, solution: str) -> Markdown:
    """A question with its solution folded away; both are Markdown. To be the last line of a cell."""
    return Markdown(
        f"**Exercise.** {question.strip()}\n\n"
        f"<details><summary>Solution</summary>\n\n{solution.strip()}\n\n</details>"
    )


def find_project(start: str | Path = ".") -> Path:
    """The folder of `params.yaml`: `start` or the nearest one above it.

    Raises:
        MvfaError: there is none.
    """
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise MvfaError("params.yaml: not found here or above; open the lesson inside the project's folder")


def open_demo(start: str | Path = ".", **changes: object) -> Experiment:
    """The experiment of `params.yaml`, opened from any folder of the project, silent and on the CPU.

    Args:
        start: where to look from.
        changes: settings that this lesson wants otherwise, such as `few_shot={"epochs": 3}`.

    Raises:
        MvfaError: there is no project, or the demo's data have not been fetched.
    """
    base = find_project(start)
    values = load_settings(base / "params.yaml").model_dump() | {"device": "cpu"}
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    settings = Settings(**values)
    weights = settings.backbone.weights
    if weights and Path(weights).suffix and not (base / weights).is_file():
        raise MvfaError(f"{weights}: the demo has not been fetched; run `make data` in the project's folder")
    return Experiment(settings, base, say=lambda _: None)
