"""Figures hold what they should; how they look is for people to judge."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from mvfa_core import figures
from mvfa_core.evaluation import Evaluation
from mvfa_core.methods import place_of

GROUPS = ["clip-pooled", "clip-patch", "winclip", "untrained", "2-memory/sound", "2-probe/sound"]
GROUPS += [
    "2-projector/sound",
    "zero-shot/sound",
    "2-shot/sound",
    "4-shot/sound",
    "8-shot/sound",
    "16-shot/sound",
]


def table(groups: list[str], datasets: tuple[str, ...] = ("Knee", "mean")) -> pd.DataFrame:
    rows = [(d, g, 0.5 + i / 50, 0.45, 0.9) for d in datasets for i, g in enumerate(groups)]
    return pd.DataFrame(rows, columns=["dataset", "method", "value", "low", "high"])


def test_one_colour_a_method_in_every_figure():
    colours = {group: figures.colour_of(group, GROUPS) for group in GROUPS}
    assert len(set(colours.values())) == len(GROUPS)
    # a baseline keeps its colour whatever else is shown, and a protocol has that of its shots
    assert figures.colour_of("4-memory/sound", ["4-memory/sound"]) == colours["2-memory/sound"]
    assert figures.colour_of("4-shot/paper", [*GROUPS, "4-shot/paper"]) == colours["4-shot/sound"]
    with pytest.raises(ValueError):
        figures.colour_of("3-shot/sound", GROUPS)


def simulated(colour: str, lacking: str) -> np.ndarray:
    """What is left for a reader without the red or the green receptors (Vienot et al., 1999), linear RGB."""
    to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    lms = to_lms @ np.power(to_rgb(colour), 2.2)
    if lacking == "red":
        lms[0] = 2.02344 * lms[1] - 2.52581 * lms[2]
    else:
        lms[1] = 0.494207 * lms[0] + 1.24827 * lms[2]
    return np.clip(np.linalg.inv(to_lms) @ lms, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("lacking", ["red", "green"])
def test_main_methods_are_told_apart_without_red_or_green(lacking):
    main = ["clip-pooled", "clip-patch", "untrained", "zero-shot/sound", "4-shot/sound"]
    seen = [simulated(figures.colour_of(g, ["4-shot/sound"]), lacking) for g in main]
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert np.linalg.norm(one - other) > 0.2


def test_every_method_has_a_named_row_in_every_panel():
    figure = figures.baseline_figure(table(GROUPS), "image_auroc")
    first, second = figure.axes[:2]
    assert [label.get_text() for label in first.get_yticklabels()][:3] == [
        "CLIP, pooled",
        "CLIP, patches",
        "CLIP, windows",
    ]
    assert first.get_title() == "Knee" and second.get_title() == "mean"
    assert all(len(axis.containers) == len(GROUPS) for axis in (first, second))


def test_tables_without_rows_give_empty_figures():
    empty = table([])
    for draw in (figures.interval_figure, figures.baseline_figure):
        assert draw(empty, "pixel_auroc").axes
    undefined = table(GROUPS).assign(value=np.nan)
    assert figures.interval_figure(undefined, "image_auroc").axes


@pytest.fixture
def evaluation() -> Evaluation:
    rng, labels = np.random.default_rng(0), np.arange(20) % 2
    methods = ["clip-pooled", "clip-patch", "2-memory/sound/0", "2-memory/sound/1", "zero-shot/sound"]
    methods += [
        f"{k}-shot/{protocol}/{draw}" for k in (2, 4, 8) for protocol in ("sound", "paper") for draw in (0, 1)
    ]
    scores = pd.DataFrame({"image": [f"{i}.png" for i in range(20)], "label": labels})
    scores = scores.assign(**{method: labels + rng.standard_normal(20) for method in methods})
    gallery = {f"map:{method}": np.zeros((2, 8, 8)) for method in methods[1:]}
    groups = sorted({"/".join(method.split("/")[:2]) for method in methods}, key=place_of)
    return Evaluation("Knee", {group: {} for group in groups}, scores, {}, gallery, {})


def test_panels_show_plain_clip_and_mvfa_and_not_too_many_of_them(evaluation):
    shown = figures.panel_methods(evaluation)
    assert shown == ["clip-patch", "zero-shot/sound", "2-shot/sound/0", "8-shot/sound/0"]


def test_curves_are_those_of_the_main_methods(evaluation):
    (axis,) = [axis for axis in figures.roc_figure([evaluation]).axes if axis.get_visible()]
    names = axis.get_legend_handles_labels()[1]
    assert (
        "CLIP, pooled" in names and "MVFA 8-shot (paper)" in names and not any("memory" in n for n in names)
    )
    evaluation.scores["label"] = 0
    assert figures.roc_figure([evaluation]) and figures.mean_roc_table([evaluation]).empty


def test_the_threshold_is_drawn_where_there_is_one(evaluation):
    figure = figures.score_figure(evaluation, ["clip-pooled", "2-shot/sound/0"], {"2-shot/sound/0": 0.4})
    assert len(figure.axes[0].lines) == 0 and figure.axes[1].lines[0].get_xdata()[0] == 0.4


def test_failures_have_their_picture_name_and_share():
    failures = pd.DataFrame(
        {"kind": ["miss", "miss", "false alarm"], "image": ["a", "b", "c"], "overtaken": [0.9, 0.5, 0.25]}
    )
    figure = figures.failure_figure(failures, np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 8, 8), np.uint8))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["a\novertaken by 90 %", "b\novertaken by 50 %", "c\novertaken by 25 %", ""]
    assert figures.failure_figure(failures.iloc[:0], np.zeros((0, 8, 8, 3), np.uint8))


def test_a_panel_above_an_unused_place_shows_the_numbers_of_its_axis():
    figure = figures.baseline_figure(table(GROUPS, ("a", "b", "c", "d", "e", "f", "mean")), "image_auroc")
    figure.canvas.draw()
    panels = [axis for axis in figure.axes if axis.get_visible()]
    numbered = [any(tick.label1.get_visible() for tick in axis.xaxis.get_major_ticks()) for axis in panels]
    assert numbered == [False] * 3 + [True] * 4
