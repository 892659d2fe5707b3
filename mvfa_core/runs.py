"""A trained run on disk: adapters, training log and what is needed to judge with them again."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from mvfa_core.adapters import Adapters
from mvfa_core.checkpoints import load_adapters, save_adapters
from mvfa_core.errors import MvfaError
from mvfa_core.judging import FusionRanges
from mvfa_core.methods import method_name
from mvfa_core.writing import write_text


@dataclass
class Run:
    """One training.

    dataset: the target. shots: 0 for zero-shot. draw: number of the support draw (few-shot) or 0.
    epoch: the kept one, counted from 1. log: a row an epoch. support: chosen file names (few-shot).
    ranges: fusion ranges fixed on the support images (few-shot).
    origin: who trained it, where that was not this pipeline; stands in the protocol's place in its name.
    """

    dataset: str
    shots: int
    protocol: str
    draw: int
    epoch: int
    adapters: Adapters
    log: pd.DataFrame
    support: dict[str, list[str]] | None = None
    ranges: FusionRanges | None = None
    origin: str | None = None
    provenance: dict = field(default_factory=dict)

    @property
    def method(self) -> str:
        return method_name(self.shots, self.origin or self.protocol, self.draw)

    def save(self, folder: str | Path) -> None:
        """Write `adapters.safetensors`, `run.json` and `log.csv` into `folder`, each file as a whole."""
        folder = Path(folder)
        save_adapters(
            folder / "adapters.safetensors",
            self.adapters,
            {
                "dataset": self.dataset,
                "shots": str(self.shots),
                "protocol": self.protocol,
                "draw": str(self.draw),
            },
        )
        write_text(folder / "log.csv", self.log.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
        record = {
            "dataset": self.dataset,
            "shots": self.shots,
            "protocol": self.protocol,
            "draw": self.draw,
            "epoch": self.epoch,
            "support": self.support,
            "ranges": None if self.ranges is None else asdict(self.ranges),
            "provenance": self.provenance,
        }
        if self.origin is not None:
            record["origin"] = self.origin
        write_text(folder / "run.json", json.dumps(record, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: str | Path, adapters: Adapters) -> "Run":
        """Read a run into fresh `adapters` of the right shape.

        Raises:
            MvfaError: a file is missing, unreadable or does not fit.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            log = pd.read_csv(folder / "log.csv")
        except (OSError, ValueError):
            raise MvfaError(f"{folder}: is not a complete run; train it again") from None
        load_adapters(folder / "adapters.safetensors", adapters)
        stored = record.pop("ranges")
        ranges = None if stored is None else FusionRanges.from_record(stored)
        return cls(adapters=adapters, log=log, ranges=ranges, **record)
