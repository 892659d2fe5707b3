"""Run one notebook of the pipeline with parameters and keep a copy without times, paths or host names.

    python notebooks/execute.py notebooks/train.ipynb results/notebooks/train-Brain.ipynb -p dataset Brain

The copy appears only when the whole notebook has run. A problem that the user can mend is printed as one
line and ends with exit code 1.
"""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import yaml

# nbformat's validator would build a grammar of internationalised addresses, which takes most of a second a
# notebook and is asked for nothing here; without this package it goes without
sys.modules.setdefault("rfc3987_syntax", None)
import nbformat  # noqa: E402
import papermill  # noqa: E402
from papermill.exceptions import PapermillExecutionError  # noqa: E402
from traitlets.config import Config  # noqa: E402

from mvfa_core.writing import write_through  # noqa: E402

KEPT_METADATA = ("kernelspec", "language_info")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def strip(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs between two equal runs: papermill's and the kernel's metadata, object addresses."""
    notebook.metadata = {key: notebook.metadata[key] for key in KEPT_METADATA if key in notebook.metadata}
    notebook.metadata.get("language_info", {}).pop("version", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = joined([o for o in cell.outputs if o.get("name") != "stderr"])
            for output in cell.outputs:
                output.get("metadata", {}).clear()
    return notebook


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Printed lines in one piece: where a kernel cuts them is a matter of timing."""
    result: list[nbformat.NotebookNode] = []
    for output in outputs:
        if result and output.output_type == result[-1].output_type == "stream":
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def _local_sockets(folder: str) -> Config:
    """The kernel is spoken to through files in `folder`: of two that start at once, both might take one TCP port."""
    return Config({"KernelManager": {"transport": "ipc", "ip": str(Path(folder) / "kernel")}})


def main(
    source: Annotated[Path, typer.Argument(help="notebook to run")],
    target: Annotated[Path, typer.Argument(help="where the executed copy goes")],
    parameters: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", help="NAME=VALUE, read as YAML; may be repeated")
    ] = None,
) -> None:
    """Run SOURCE and keep its outputs in TARGET."""
    try:
        given = {
            name: yaml.safe_load(value) for name, _, value in (p.partition("=") for p in parameters or [])
        }
    except yaml.YAMLError:
        sys.exit("parameters must read NAME=VALUE with a YAML value")
    if not source.is_file():
        sys.exit(f"{source}: notebook is missing; restore it from the repository")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    # GNU OpenMP's threads spin while they wait: for as long as it likes, a few shots take four times as long as
    # soon as something else runs on the machine; not at all, a quarter longer on a quiet one
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        executed = Path(scratch) / "executed.ipynb"
        try:
            papermill.execute_notebook(
                str(source),
                str(executed),
                given,
                cwd=".",
                kernel_name="python3",
                log_output=False,
                # cells have written and closed their files; a kernel that says good-bye takes two seconds
                shutdown_kernel="immediate",
                config=_local_sockets(scratch) if os.name == "posix" else None,
            )
        except PapermillExecutionError as error:
            if error.ename == "MvfaError":
                sys.exit(f"error: {error.evalue}")
            sys.exit(ANSI.sub("", "\n".join(error.traceback)))
        notebook = strip(nbformat.read(executed, as_version=4))
    write_through(target, lambda part: nbformat.write(notebook, part))


if __name__ == "__main__":
    typer.run(main)
