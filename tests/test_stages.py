"""`dvc.yaml` names what each stage really uses: the notebook's imports, followed through the core."""

import ast
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# A change of these alters how a training or evaluation notebook looks, never what it computes; training again
# for the sake of a colour would be a waste. The compare stage, whose outputs are figures, does depend on them.
LOOKS = {"failures", "figures", "measures", "report", "significance"}


def imported(source: str) -> set[str]:
    """Names of the core's modules that a piece of code imports, `package/module` where they lie in a package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mvfa_core"):
            parts = node.module.split(".")[1:]
            found |= {"/".join(parts), *("/".join([*parts, alias.name]) for alias in node.names)}
    return {name for name in found if (ROOT / "mvfa_core" / f"{name}.py").exists()}


def closure(start: set[str], without: set[str]) -> set[str]:
    """`start` and everything imported from there, not entering `without`."""
    seen, waiting = set(), start - without
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= imported((ROOT / "mvfa_core" / f"{name}.py").read_text()) - seen - without
    return seen


def notebook_source(name: str) -> str:
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return "\n".join("" if line.startswith("%") else line for line in code.splitlines())


@pytest.mark.parametrize(
    ("stage", "notebook", "without"),
    [
        ("train_zero", "train", LOOKS),
        ("train_few", "train", LOOKS),
        ("evaluate", "evaluate", LOOKS),
    ],
)
def test_a_stage_lists_every_module_that_decides_its_figures(stage, notebook, without):
    listed = {Path(d).stem for d in STAGES[stage]["deps"] if "mvfa_core/" in d}
    assert listed == closure(imported(notebook_source(notebook)), without)


def test_compare_lists_every_module_that_decides_its_tables():
    """All but those that only judge images: they act through the evaluations, which are listed."""
    listed = {Path(d).stem for d in STAGES["compare"]["deps"] if d.endswith(".py") and "mvfa_core/" in d}
    judging = closure({"experiment", "operating", "plain", "windows"}, set())
    wanted = closure(imported(notebook_source("compare")), set())
    assert listed >= wanted - judging
    assert listed >= {"methods", "metrics", "uncertainty"}
    assert listed <= wanted


@pytest.mark.parametrize("stage", list(STAGES))
def test_dependencies_exist_and_results_do_not_depend_on_executed_notebooks(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    for dependency in definition["deps"]:
        if dependency.startswith("${project}"):
            assert (ROOT / dependency.removeprefix("${project}/")).exists(), dependency
        if stage != "report":
            assert "results/notebooks" not in dependency
