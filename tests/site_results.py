"""Small made-up results, with names that try to be markup, for the tests that look at the report."""

import base64
import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from PIL import Image

from mvfa_core.evaluation import Evaluation
from mvfa_core.report import save_table, wide

EVIL = "<img src=x onerror=alert(1)>.png"
METHODS = ("clip-pooled", "clip-patch", "zero-shot/sound", "4-shot/sound/0", "4-shot/sound/1")
DATASETS = {"Brain": True, "Retina_OCT": False}
SIZE = 24


def picture(seed: int, shape: tuple[int, int] = (40, 60)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def evaluation(name: str, masks: bool, images: int = 40) -> Evaluation:
    """Half normal, half abnormal; scores overlap, so that each outcome occurs."""
    rng = np.random.default_rng(len(name))
    labels = np.arange(images) % 2
    scores = pd.DataFrame({"image": [f"test/{i:03d}.png" for i in range(images)], "label": labels})
    scores.loc[1, "image"] = f"test/{EVIL}"
    for method in METHODS:
        scores[method] = np.round(labels * 0.8 + rng.normal(0, 1, images), 6)
    # the row with the evil name first
    rows = np.array([1, 3, 5, 7, 9, 11, 0, 2, 4, 6, 8, 10])
    gallery = {
        "rows": rows,
        "images": rng.integers(0, 255, (len(rows), SIZE, SIZE, 3), dtype=np.uint8),
    }
    if masks:
        gallery["masks"] = np.zeros((len(rows), SIZE, SIZE), dtype=np.uint8)
        gallery["masks"][:6, 5:12, 6:15] = 1
    for method in METHODS[1:]:
        gallery[f"map:{method}"] = rng.random((len(rows), SIZE, SIZE)).astype(np.float16)
        gallery[f"range:{method}"] = np.array([0.1, 0.9], dtype=np.float32)
    backbone = {"model": "demo_clip.json", "fingerprint": "0123456789abcdef", "image_size": SIZE}
    runs = {"4-shot/sound/0": {"backbone": backbone, "levels": [1, 2], "seed": 7, "versions": {"torch": "2"}}}
    return Evaluation(name, {}, scores, {}, gallery, {"runs": runs})


def notebook(title: str, *extra: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """One cell of each kind that a page has to cope with."""
    png = base64.b64encode(picture(3)).decode()
    table = pd.DataFrame({f"column {i}": [1.0, 2.0] for i in range(12)}, index=[EVIL, "other"])
    outputs = [
        nbformat.v4.new_output("display_data", {"image/png": png, "text/plain": "Figure"}),
        nbformat.v4.new_output("display_data", {"text/html": table._repr_html_(), "text/plain": "a table"}),
        nbformat.v4.new_output("display_data", {"text/html": f"<b>bold</b><script>alert(2)</script>{EVIL}"}),
        nbformat.v4.new_output(
            "display_data",
            {
                "text/markdown": "**Exercise.**\n\n<details><summary>Solution</summary>\n\n`a < b`\n\n</details>"
            },
        ),
        nbformat.v4.new_output(
            "display_data",
            {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider()"},
        ),
        nbformat.v4.new_output("stream", text="a printed line\n"),
    ]
    code = "# a comment\nfor x in range(3):\n    print(f'{x} items', x is None, 1.5)  # " + "long " * 60
    cells = [
        nbformat.v4.new_markdown_cell(
            f"# {title}\n\nWords and a formula: $x \\leftarrow 0.8\\,x + 0.1\\,s$."
        ),
        nbformat.v4.new_code_cell(code, outputs=outputs),
        nbformat.v4.new_markdown_cell("## Second part\n\n$$\\frac{a}{b}$$\n\n```python\nx = 1\n```"),
        nbformat.v4.new_markdown_cell("## Second part\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
        nbformat.v4.new_markdown_cell(
            "## Third part\n\nSee [another lesson](02_second.ipynb) and [a file](../../README.md)."
        ),
        *extra,
    ]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
    return book


def write_results(root: Path) -> tuple[Path, Path, Path]:
    """`results`, `evaluations` and the project's folder with two lessons and ablations, all below `root`."""
    results, bulk = root / "results", root / "evaluations"
    for name, masks in DATASETS.items():
        evaluation(name, masks).save(results, bulk / name)
    rows = [(d, m) for d in (*DATASETS, "mean") for m in ("clip-pooled", "zero-shot/sound", "4-shot/sound")]
    table = pd.DataFrame(
        [{"dataset": d, "method": m, "value": 0.7, "low": 0.6, "high": 0.8} for d, m in rows]
    )
    for metric in ("image_auroc", "pixel_auroc"):
        save_table(table, results / "tables", metric, wide(table))
    strange = pd.DataFrame({"image": [EVIL], "difference": ["+0.100 [+0.050, +0.200]*"]}, index=[EVIL])
    save_table(strange, results / "tables", "gain")
    findings = [f"adapters *help* on {EVIL}", "the second finding", "the third finding", "the fourth finding"]
    (results / "tables" / "findings.md").write_text("".join(f"- {line}\n" for line in findings))
    (results / "figures").mkdir()
    for number, name in enumerate(("image_auroc", "pixel_auroc", "roc", "panel-Brain")):
        (results / "figures" / f"{name}.png").write_bytes(picture(number, (300, 900)))
    names = ["compare"]
    for name in DATASETS:
        names += [f"evaluate-{name}", f"train-{name}-4-shot-sound", f"train-{name}-zero-sound"]
    for name in names:
        write_notebook(results / "notebooks" / f"{name}.ipynb", notebook(f"About {name}"))
    write_notebook(root / "ablations" / "results" / "notebooks" / "ablations.ipynb", notebook("Ablations"))
    for name, title in (("01_first", "What is seen?"), ("02_second", "What is said?")):
        write_notebook(root / "notebooks" / "walkthrough" / f"{name}.ipynb", notebook(title))
    return results, bulk, root


def write_notebook(path: Path, content: nbformat.NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
