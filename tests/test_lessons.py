"""The walkthrough: every lesson runs, is built the way lessons are, and is committed with its outputs."""

import ast
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mvfa_core.lessons.widgets import FRONT_ENDS

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks" / "walkthrough"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in LESSONS]
CPU_SECONDS = 240  # two minutes on two cores


@pytest.fixture(params=LESSONS, ids=NAMES)
def lesson(request):
    return nbformat.read(request.param, as_version=4)


def outputs(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def kinds(notebook) -> set[str]:
    return {kind for output in outputs(notebook) for kind in output.get("data", {})}


def markdown(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def code(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_six_lessons_in_order():
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05", "06"]


def test_opens_with_a_question_and_a_picture(lesson):
    first = lesson.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "**Question.**" in first.source and "?" in first.source
    opening = []
    for cell in lesson.cells[1:]:
        if cell.cell_type == "markdown":
            break
        opening += cell.outputs
    assert any("image/png" in output.get("data", {}) for output in opening)


def test_has_two_or_three_exercises_with_folded_solutions(lesson):
    shown = [output.get("data", {}).get("text/markdown", "") for output in outputs(lesson)]
    exercises = [text for text in shown if text.startswith("**Exercise.**")]
    assert 2 <= len(exercises) <= 3
    assert all(text.count("<details>") == text.count("</details>") == 1 for text in exercises)


def test_ends_with_what_was_learned_and_what_to_read(lesson):
    last = markdown(lesson)[-1]
    assert lesson.cells[-1].cell_type == "markdown"
    assert last.index("## What you learned") < last.index("## Read on")


def test_links_and_pictures_beside_it_exist(lesson):
    for target in re.findall(r"\]\(([^)#\s]+)\)", "\n".join(markdown(lesson))):
        if not target.startswith("http"):
            assert (FOLDER / target).exists(), target


def test_is_thin(lesson):
    """Logic lives in the core, where tests reach it; parameters stand in one cell."""
    for source in code(lesson):
        tree = ast.parse("\n".join("" if line.startswith("%") else line for line in source.splitlines()))
        found = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.While)
        ]
        assert not found, source
    tagged = [cell for cell in lesson.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1


def test_is_committed_with_outputs_that_tell_nothing_of_a_machine(lesson):
    cells = [cell for cell in lesson.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not [output for output in outputs(lesson) if output.output_type == "error"]
    assert "image/png" in kinds(lesson) and not any("widget" in kind for kind in kinds(lesson))
    text = nbformat.writes(lesson)
    assert not re.search(r"(?:/home|/root|/Users|/tmp|/work)/\w|start_time|0x[0-9a-f]{8}", text)
    # pandas' styled tables carry a random number
    assert 'id="T_' not in text.replace("\\", "")


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_is_small(path):
    assert path.stat().st_size < 1_500_000


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_runs(path, tmp_path):
    """From the folder it is opened in; what it shows is of the same kinds as what is committed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(ROOT / "notebooks" / "execute.py"), str(path), str(tmp_path / path.name)],
        cwd=FOLDER,
        # pictures, not widgets, wherever the tests are started from
        env={key: value for key, value in os.environ.items() if key not in FRONT_ENDS},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_SECONDS
    fresh, kept = (nbformat.read(p, as_version=4) for p in (tmp_path / path.name, path))
    assert [cell.source for cell in fresh.cells] == [cell.source for cell in kept.cells]
    assert [sorted(o.get("data", {"text": 0})) for o in outputs(fresh)] == [
        sorted(o.get("data", {"text": 0})) for o in outputs(kept)
    ]
