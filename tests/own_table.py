"""A folder of images with a table, as a user would bring it."""

import csv
from pathlib import Path

import numpy as np
from conftest import draw_image
from PIL import Image

PATIENTS = 12


def write_table(
    folder: Path, masks: bool = True, columns=("path", "label", "mask", "patient"), **changes
) -> list[dict]:
    """48 images of 12 patients, four each, of whom every second one has two abnormal images."""
    rng = np.random.default_rng(4)
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number in range(4 * PATIENTS):
        patient, abnormal = number // 4, (number // 4) % 2 == 1 and number % 4 > 1
        image, mask = draw_image(rng, abnormal)
        row = {
            "path": f"pictures/{number:02d}.png",
            "label": int(abnormal),
            "patient": f"p{patient}",
            "mask": "",
        }
        Image.fromarray(image).save(folder / row["path"])
        if abnormal and masks:
            row["mask"] = f"pictures/{number:02d}-mask.png"
            Image.fromarray(mask).save(folder / row["mask"])
        rows.append({key: {**row, **changes}[key] for key in columns})
    save_table(folder, rows)
    return rows


def save_table(folder: Path, rows: list[dict]) -> None:
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
