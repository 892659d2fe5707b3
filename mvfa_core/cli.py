"""The command line. Imports that take seconds wait until a command needs them."""

import json
import os
import sys
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import click
import typer
from tqdm import tqdm
from typer.core import TyperGroup

from mvfa_core import commands
from mvfa_core.errors import MvfaError
from mvfa_core.reference import DEFAULT_RATE, DEFAULT_RULE

PARAMS = typer.Option(help="parameter file; relative paths in it start from its folder")
RESULTS = typer.Option(help="folder of the results")


class Rule(str, Enum):
    """Of the threshold, see `reference.py`."""

    FALSE_ALARM = "false-alarm"
    F1 = "f1"
    YOUDEN = "youden"


class _OneLineErrors(TyperGroup):
    """Problems the user can mend end as one line and exit code 1."""

    def invoke(self, ctx: click.Context):
        for stream in (sys.stdout, sys.stderr):
            # file names need not be text
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
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


commands.register(app)


@app.command()
def manifest(
    dataset: Annotated[str, typer.Argument(help="name of an entry of the parameter file")],
    params: Annotated[Path, PARAMS] = Path("params.yaml"),
    output: Annotated[Path, typer.Option(help="folder for <split>/<dataset>.json")] = Path("runs/data"),
) -> None:
    """Read every file of a data set once and write what was found."""
    from mvfa_core.datasets import ImageDataset
    from mvfa_core.settings import load_settings
    from mvfa_core.writing import write_text

    entry = load_settings(params).dataset(dataset)
    opened = ImageDataset(dataset, entry, params.resolve().parent)
    found = {split: opened.manifest(split) for split in ("valid", "test")}
    for split, content in found.items():
        write_text(output / split / f"{dataset}.json", json.dumps(content, indent=1) + "\n")
        typer.echo(f"{dataset} {split}: {content['normal']} normal, {content['abnormal']} abnormal images")


@app.command()
def report(
    results: Annotated[Path, RESULTS] = Path("results"),
    bulk: Annotated[Path, typer.Option(help="folder of the evaluations' arrays")] = Path("evaluations"),
    project: Annotated[Path, typer.Option(help="folder of the code, for lessons and ablations")] = Path(),
) -> None:
    """Render the results as a static site in RESULTS/report."""
    from mvfa_core.site import build_site

    pages = build_site(results, bulk, project)
    typer.echo(f"{pages} pages; open {results / 'report' / 'index.html'}")


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(help="image, or folder of images")],
    run: Annotated[Path, typer.Option(help="detector file of `mvfa export`, or folder of a trained run")],
    output: Annotated[Path, typer.Option(help="folder for tables, maps and overlays")] = Path("predictions"),
    rule: Annotated[
        Rule | None,
        typer.Option(help="where the threshold lies on the reference images; default: as exported"),
    ] = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(help="share of the known normal images that the rule false-alarm may flag; implies it"),
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(help="values that become black and white in images of more than 8 bits"),
    ] = None,
    axis: Annotated[
        int, typer.Option(help="NIfTI: cut along this axis of the stored array", min=0, max=2)
    ] = 2,
    pictures: Annotated[bool, typer.Option(help="write maps and overlays")] = True,
    backbone: Annotated[
        Path | None, typer.Option(help="weights of the backbone, where the detector file lacks them")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps")] = None,
    params: Annotated[Path, PARAMS] = Path("params.yaml"),
) -> None:
    """Score images and draw where they look abnormal. Research use only; not a medical device."""
    from mvfa_core.listing import detector_of, spare_imports

    if not run.is_dir():
        spare_imports(run)
    import torch

    from mvfa_core.prediction import find_images, predict_files

    # files side by side instead of one file on all cores: faster, and the same bytes whatever their number
    torch.set_num_threads(1)
    images = find_images(source, leave_out=output)
    if run.is_dir():
        detector = detector_of(run, params, device=device)
    else:
        from mvfa_core.detector import Detector

        detector = Detector.load(run, backbone, device or "auto")
    if rule is not None or false_alarm_rate is not None:
        chosen, rate = rule or Rule.FALSE_ALARM, false_alarm_rate
        detector = detector.with_rule(chosen.value, detector.false_alarm_rate if rate is None else rate)
    workers = min(os.cpu_count() or 1, len(images), 8)
    bar = partial(tqdm, unit="file", disable=None if len(images) > 1 else True)
    summary = predict_files(detector, images, output, window, axis, pictures, workers, bar)
    for line in summary.bad:
        typer.echo(f"error: {line}", err=True)
    kept = f", {summary.kept} of them kept from an interrupted run" if summary.kept else ""
    typer.echo(f"{summary.done} of {len(images)} files done{kept}; {output / 'results.csv'}")
    if detector.threshold is not None:
        typer.echo(f"{summary.abnormal} of {summary.pictures} pictures at or above {detector.threshold:.4f}")
    if summary.bad:
        raise typer.Exit(1)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="where the runs are")] = Path("runs"),
    results: Annotated[Path, RESULTS] = Path("results"),
) -> None:
    """List trained runs with their figures on the test split."""
    from tabulate import tabulate

    from mvfa_core.listing import list_runs

    rows = [
        (r.path, r.dataset, r.method, r.epoch, r.figure("image_auroc"), r.figure("pixel_auroc"))
        for r in list_runs(folder, results)
    ]
    head = ("run", "data set", "method", "epoch", "image AUROC", "pixel AUROC")
    typer.echo(tabulate(rows, head, disable_numparse=True))
    typer.echo("Figures are means over support draws, with 95 % intervals over test images.")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a trained run, see `mvfa runs`")],
    output: Annotated[Path, typer.Option(help="file to write")] = Path("detector.safetensors"),
    rule: Annotated[Rule, typer.Option(help="where the threshold lies on the reference images")] = Rule(
        DEFAULT_RULE
    ),
    false_alarm_rate: Annotated[
        float, typer.Option(help="share of the known normal images that the rule false-alarm may flag")
    ] = DEFAULT_RATE,
    params: Annotated[Path, PARAMS] = Path("params.yaml"),
    results: Annotated[Path, RESULTS] = Path("results"),
) -> None:
    """Pack a trained run into one file that `predict` takes, with a model card."""
    import torch

    from mvfa_core.listing import detector_of

    # its reference scores are then those that predict would give, to the last bit
    torch.set_num_threads(1)
    detector = detector_of(run, params, results, rule.value, false_alarm_rate)
    detector.save(output)
    typer.echo(detector.card)
    carried = (
        "included" if detector.about["backbone"]["embedded"] else "not included: predict needs --backbone"
    )
    typer.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB, backbone {carried}")


@app.command()
def add_dataset(
    name: Annotated[str, typer.Argument(help="how results call it")],
    root: Annotated[Path, typer.Argument(help="its folder: BMAD's layout, or any with a table")],
    organ: Annotated[
        str, typer.Option(help="what the prompts call what is seen, such as 'Chest X-ray film'")
    ],
    table: Annotated[
        str | None,
        typer.Option(help="CSV inside the folder: path, label, optional mask, split, patient"),
    ] = None,
    masks: Annotated[bool | None, typer.Option(help="default: whether there are any")] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(help="values that become black and white in images of more than 8 bits"),
    ] = None,
    params: Annotated[Path, PARAMS] = Path("params.yaml"),
) -> None:
    """Check a data set of your own and add it to the parameter file."""
    from mvfa_core import own_data

    bar = partial(tqdm, unit="image", disable=None)
    entry, counts = own_data.add_dataset(params, name, root, organ, masks, table, window, bar)
    for split, (normal, abnormal) in counts.items():
        typer.echo(f"{name} {split}: {normal} normal, {abnormal} abnormal images")
    typer.echo(f"{params}: {name} added ({'with' if entry.masks else 'without'} masks); next: dvc repro")
