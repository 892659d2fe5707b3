"""`params.yaml` as checked, immutable objects. Everything a user turns is a field here."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mvfa_core.errors import MvfaError
from mvfa_core.protocols import PROTOCOLS

Fraction = Annotated[float, Field(ge=0, le=1)]
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def checked_name(name: str) -> str:
    """`name` of a data set, which becomes a part of file names and commands.

    Raises:
        ValueError: it has other characters in it, among them those that would lead out of a folder.
    """
    if not NAME.fullmatch(name):
        raise ValueError("use up to 64 letters, digits, - and _, starting with a letter")
    return name


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Parameters = TypeVar("Parameters", bound=Section)


class BackboneSettings(Section):
    """The frozen model: which, from where, and how images are put in."""

    model: str
    weights: str | None
    image_size: Annotated[int, Field(ge=16, le=2048)]
    levels: Annotated[tuple[int | float, ...], Field(min_length=1)]
    activation: Literal["gelu", "quickgelu"] = "gelu"
    normalise: bool = False


class MethodSettings(Section):
    """The adapters' mixing weights and the share of the memory branch in the fused score."""

    residual: tuple[float, float, float] = (0.8, 0.1, 0.1)
    memory_weight: Fraction = 0.5


class TrainingSettings(Section):
    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)]


class FewShotSettings(TrainingSettings):
    """k normal + k abnormal images of the target, from its `valid` split."""

    shots: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    draws: Annotated[int, Field(ge=1)] = 1
    support_lists: str | None = None


class ZeroShotSettings(TrainingSettings):
    """Leave one out: trained on the `test` splits of the other data sets."""

    images_per_class: Annotated[int, Field(ge=2)] | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2


class EvaluationSettings(Section):
    batch_size: Annotated[int, Field(ge=1)] = 32
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    gallery: Annotated[int, Field(ge=1)] = 6


class CacheSettings(Section):
    """What the frozen blocks make of an image, kept for the next run; no result depends on it.

    folder: relative to the parameter file; None: nothing is kept. disk_gb: its limit, in 10^9 bytes.
    memory_gb: a set of images with more tokens is read from the folder batch by batch.
    """

    folder: str | None = ".mvfa-cache"
    disk_gb: Annotated[float, Field(ge=0)] = 10.0
    memory_gb: Annotated[float, Field(ge=0)] = 8.0


class DatasetEntry(Section):
    """One data set: where it lies, the name put into the prompts, whether it has masks.

    table: CSV file inside `root` (columns path, label, optional mask, split, patient); None: BMAD's folders.
    valid_share: share of the `valid` split where the table names no splits.
    window: values that become black and white in files of more than 8 bits.
    """

    root: str
    organ: Annotated[str, Field(min_length=1)]
    masks: bool
    table: str | None = None
    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    window: tuple[float, float] | None = None


class Settings(Section):
    """A whole parameter file. `project` is read by the pipeline alone: where the code lies, seen from the file."""

    project: str = "."
    seed: Annotated[int, Field(ge=0)]
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    protocols: Annotated[tuple[str, ...], Field(min_length=1)]
    backbone: BackboneSettings
    method: MethodSettings = MethodSettings()
    few_shot: FewShotSettings
    zero_shot: ZeroShotSettings
    evaluation: EvaluationSettings = EvaluationSettings()
    cache: CacheSettings = CacheSettings()
    datasets: Annotated[dict[Annotated[str, AfterValidator(checked_name)], DatasetEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _known_protocols(self) -> "Settings":
        for name in self.protocols:
            if name not in PROTOCOLS:
                raise ValueError(f"protocols: '{name}' is none of {', '.join(PROTOCOLS)}")
        return self

    def dataset(self, name: str) -> DatasetEntry:
        """The entry called `name`; an unknown name raises `MvfaError` with the known ones."""
        if name not in self.datasets:
            raise MvfaError(f"unknown data set '{name}': params.yaml has {', '.join(self.datasets)}")
        return self.datasets[name]


def _known_keys(location: tuple, model: type[Section]) -> list[str]:
    """Names that are allowed where an unknown one was found."""
    for part in location[:-1]:
        if part == "datasets":
            model = DatasetEntry
        elif isinstance(part, str) and model is not None and part in model.model_fields:
            model = model.model_fields[part].annotation
    return list(getattr(model, "model_fields", {}))


def _explain(error: dict, model: type[Section]) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "top level"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _known_keys(error["loc"], model), n=1)
        return f"unknown setting '{where}'" + (f", did you mean '{near[0]}'?" if near else "; remove it")
    if error["type"] == "missing":
        return f"'{where}' is missing; add it"
    return f"'{where}': {error['msg'].removeprefix('Value error, ')}, got {error.get('input')!r:.60}"


def load_settings(path: str | Path) -> Settings:
    """Read and check a parameter file; errors as `read_section`."""
    return read_section(path, Settings)


def read_section(path: str | Path, model: type[Parameters]) -> Parameters:
    """Read a YAML file and check it against `model`.

    Raises:
        MvfaError: the file is missing, is no YAML mapping, or a setting is unknown, missing or out of range.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MvfaError(
            f"{path}: cannot be read ({error.strerror}); give the path of a parameter file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise MvfaError(f"{path}: is not valid YAML near line {line}; mend it there") from None
    if not isinstance(raw, dict):
        raise MvfaError(f"{path}: must be a mapping of settings, see the params.yaml of the project")
    try:
        return model(**raw)
    except ValidationError as error:
        problems = "; ".join(_explain(e, model) for e in error.errors()[:3])
        raise MvfaError(f"{path}: {problems}") from None
