"""Commands for real data and foreign weights; `cli.py` registers them."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    for command in (check_data, fetch_weights, import_adapters):
        app.command()(command)


def check_data(
    path: Annotated[Path, typer.Argument(help="a data set, or the folder that holds <Name>_AD folders")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write everything found to this file")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="notes, such as other sizes than published, count as problems")
    ] = False,
) -> None:
    """Read a BMAD-style folder once, tell what is in it and what is wrong. Exit code 1: something is."""
    from tqdm import tqdm

    from mvfa_core.data_check import check_data_set, count_images, describe, find_data_sets
    from mvfa_core.writing import write_text

    found = {}
    for name, root in find_data_sets(path).items():
        with tqdm(total=count_images(root), desc=name, unit="image", leave=False, disable=None) as bar:
            found[name] = check_data_set(name, root, bar.update)
        typer.echo("\n".join(describe(found[name])))
    if json_file is not None:
        records = {name: findings.record() for name, findings in found.items()}
        write_text(json_file, json.dumps(records, indent=1, sort_keys=True) + "\n")
    wrong = [name for name, findings in found.items() if findings.problems or (strict and findings.notes)]
    if wrong:
        sys.exit(f"problems in {', '.join(wrong)}")
    typer.echo("no problems")


def fetch_weights(
    model: Annotated[str, typer.Argument(help="name of an open_clip model, such as ViT-L-14-336")],
    tag: Annotated[str, typer.Argument(help="one of its tags, such as openai")],
    file: Annotated[Path, typer.Argument(help="where the file goes")],
) -> None:
    """Download published weights to FILE and check that they can be read."""
    from mvfa_core import fetching

    tensors, kind = fetching.fetch_weights(model, tag, file)
    typer.echo(f"{file}: {kind}, {tensors} tensors, {file.stat().st_size / 1e6:.0f} MB")


def import_adapters(
    file: Annotated[Path, typer.Argument(help="the authors' <Name>.pth, or adapters.safetensors")],
    dataset: Annotated[str, typer.Option(help="the target: an entry of the parameter file")],
    shots: Annotated[int, typer.Option(min=0, help="0: zero-shot")],
    draw: Annotated[int, typer.Option(min=0, help="repetition of the support list")] = 0,
    params: Annotated[Path, typer.Option(help="parameter file")] = Path("params.yaml"),
    runs: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs"),
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="judge them on the test split at once")
    ] = False,
) -> None:
    """Make foreign adapters a run; the next `dvc repro` evaluates them beside our own."""
    from mvfa_core import authors
    from mvfa_core.experiment import Experiment

    experiment = Experiment.open(params, say=lambda line: typer.echo(line, err=True))
    run = authors.import_adapters(experiment, file, dataset, shots, draw)
    place = runs / dataset / "imported" / run.method.replace("/", "-")
    run.save(place)
    typer.echo(f"{place}: {run.method} of {dataset}, support set from the {run.provenance['support_from']}")
    if evaluate:
        table = authors.judge(experiment, run)
        typer.echo(table.to_markdown(floatfmt=".4f", missingval="-"))
