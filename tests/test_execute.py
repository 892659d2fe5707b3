"""The notebook runner: parameters in, clean copy out, one line when something is wrong."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
RUNNER = ROOT / "notebooks" / "execute.py"


def notebook(folder: Path, *cells: str) -> Path:
    content = nbformat.v4.new_notebook()
    first = nbformat.v4.new_code_cell("who = 'nobody'")
    first.metadata["tags"] = ["parameters"]
    content.cells = [first, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "source.ipynb"
    nbformat.write(content, path)
    return path


def execute(folder: Path, source: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(RUNNER), str(source), str(folder / "out" / "copy.ipynb"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("execute")
    source = notebook(
        folder, "import sys; print('hello', who)\nprint('warning', file=sys.stderr)", "print(1 + 1)"
    )
    done = execute(folder, source, "-p", "who=world")
    assert done.returncode == 0, done.stderr
    return folder, (folder / "out" / "copy.ipynb")


def test_parameters_reach_the_notebook_and_outputs_are_kept(executed):
    copy = nbformat.read(executed[1], as_version=4)
    printed = [output.text for cell in copy.cells for output in cell.get("outputs", [])]
    assert printed == ["hello world\n", "2\n"]


def test_the_copy_tells_nothing_of_time_and_place(executed):
    folder, path = executed
    text = path.read_text()
    for word in ("papermill", "start_time", "duration", str(folder), chr(34) + "stderr" + chr(34)):
        assert word not in text.replace("injected-parameters", ""), word
    assert not list(path.parent.glob("*.part"))


def test_a_problem_the_user_can_mend_is_one_line_and_leaves_nothing(tmp_path):
    source = notebook(tmp_path, "from mvfa_core.errors import MvfaError\nraise MvfaError('x.png: mend it')")
    done = execute(tmp_path, source)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [
        "error: x.png: mend it"
    ]
    assert not list((tmp_path / "out").iterdir())


def test_any_other_exception_keeps_its_traceback(tmp_path):
    done = execute(tmp_path, notebook(tmp_path, "1 / 0"))
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "\x1b[" not in done.stderr


def test_a_missing_notebook(tmp_path):
    done = execute(tmp_path, tmp_path / "none.ipynb")
    assert done.returncode == 1 and "notebook is missing" in done.stderr


def test_joined_streams():
    sys.path.insert(0, str(RUNNER.parent))
    try:
        from execute import joined
    finally:
        sys.path.pop(0)
    parts = [nbformat.v4.new_output("stream", name="stdout", text=t) for t in ("a\n", "b\n")]
    picture = nbformat.v4.new_output("display_data", data={"text/plain": "x"})
    result = joined([*parts, picture, nbformat.v4.new_output("stream", name="stdout", text="c\n")])
    assert [o.get("text", "picture") for o in result] == ["a\nb\n", "picture", "c\n"]
