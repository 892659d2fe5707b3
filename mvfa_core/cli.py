"""The command line. Imports that take seconds wait until a command needs them."""

import json
import sys
from pathlib import Path
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from mvfa_core.errors import MvfaError

PARAMS = typer.Option(help="parameter file; relative paths in it start from its folder")


class _OneLineErrors(TyperGroup):
    """Problems the user can mend end as one line and exit code 1."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except MvfaError as error:
            sys.exit(f"error: {error}")


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adapt a frozen vision-language model to find anomalies in medical images. Research use only.",
)


@app.callback()
def _root() -> None:
    """Keeps subcommands subcommands however few there are."""


@app.command()
def manifest(
    dataset: Annotated[str, typer.Argument(help="name of an entry of the parameter file")],
    params: Annotated[Path, PARAMS] = Path("params.yaml"),
    output: Annotated[Path, typer.Option(help="folder for <split>/<dataset>.json")] = Path("runs/data"),
) -> None:
    """Read every file of a data set once and write what was found."""
    from mvfa_core.datasets import ImageDataset
    from mvfa_core.runs import write_text
    from mvfa_core.settings import load_settings

    entry = load_settings(params).dataset(dataset)
    opened = ImageDataset(dataset, entry, params.resolve().parent)
    found = {split: opened.manifest(split) for split in ("valid", "test")}
    for split, content in found.items():
        write_text(output / split / f"{dataset}.json", json.dumps(content, indent=1) + "\n")
        typer.echo(f"{dataset} {split}: {content['normal']} normal, {content['abnormal']} abnormal images")


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="folder of the results")] = Path("results"),
) -> None:
    """Render the results as a static site in RESULTS/report."""
    from mvfa_core.site import build_site

    pages = build_site(results)
    typer.echo(f"{pages} pages; open {results / 'report' / 'index.html'}")
