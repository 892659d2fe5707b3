"""Two training steps of one side in a process of its own, for the memory that they need."""

import json

import torch
import typer

from benchmarks.measuring import own_peak
from benchmarks.scene import SIZES, Scene


def main(side: str, size: str, dtype: str, threads: int) -> None:
    """Print the peak as JSON."""
    torch.set_num_threads(threads)
    scene = Scene(SIZES[size])
    if side == "plain":
        epochs = scene.plain_epochs(scene.plain(copied=False))
    else:
        tokens = scene.prefix(scene.images[: scene.size.train], dtype)
        epochs = scene.epochs(scene.adapters(), tokens, dtype)
    for _ in range(2):
        next(epochs)
    print(json.dumps({"peak_mib": own_peak()}))


if __name__ == "__main__":
    typer.run(main)
