"""Two training steps of one side in a process of its own, for the memory that they need."""

import json
from pathlib import Path

import torch
import typer

from benchmarks.measuring import own_peak
from benchmarks.scene import SIZES, Scene
from mvfa_core.token_cache import TokenCache


def main(side: str, size: str, dtype: str, threads: int, weights: Path, cache: Path) -> None:
    """Print the peak as JSON. This project's side takes the weights from a file, as every run does."""
    torch.set_num_threads(threads)
    if side == "plain":
        scene = Scene(SIZES[size])
        epochs = scene.plain_epochs(scene.plain(copied=False))
    else:
        scene = Scene(SIZES[size], weights, TokenCache(cache, 10**10))
        tokens = scene.prefix(scene.images[: scene.size.train], dtype)
        scene.backbone.rest()
        epochs = scene.epochs(scene.adapters(), tokens, dtype)
    for _ in range(2):
        next(epochs)
    print(json.dumps({"peak_mib": own_peak()}))


if __name__ == "__main__":
    typer.run(main)
