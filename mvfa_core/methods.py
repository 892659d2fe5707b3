"""What results call a method: `4-shot/sound/2` is one run, `4-shot/sound` its group over support draws."""

from collections.abc import Iterable, Sequence


def method_name(shots: int, protocol: str, draw: int = 0) -> str:
    """How results call a run: `zero-shot/sound`, `4-shot/sound/2`."""
    return f"{shots}-shot/{protocol}/{draw}" if shots else f"zero-shot/{protocol}"


def group_of(method: str) -> str:
    """The method without its support draw: `4-shot/sound/2` -> `4-shot/sound`."""
    return "/".join(method.split("/")[:2])


def is_mvfa(group: str) -> bool:
    """Whether a method group is MVFA's, `zero-shot/sound` or `4-shot/paper`.

    >>> is_mvfa("4-shot/sound"), is_mvfa("4-memory/sound"), is_mvfa("clip-pooled")
    (True, False, False)
    """
    return group.split("/")[0].endswith("-shot")


def shots_of(group: str) -> int:
    """How many images of each kind the group's methods saw of the target.

    >>> shots_of("4-shot/sound"), shots_of("16-memory/sound"), shots_of("zero-shot/paper"), shots_of("winclip")
    (4, 16, 0, 0)
    """
    head = group.split("-")[0]
    return int(head) if head.isdigit() else 0


def is_few_shot(group: str) -> bool:
    """Whether a method group is MVFA's and saw images of the target.

    >>> is_few_shot("4-shot/paper"), is_few_shot("zero-shot/sound"), is_few_shot("4-memory/sound")
    (True, False, False)
    """
    return is_mvfa(group) and shots_of(group) > 0


def judging_method(shown: Sequence[str]) -> str:
    """The method whose scores choose the images that are shown: the first few-shot run, else the last method."""
    return next((m for m in shown if is_few_shot(m)), shown[-1])


# the order of tables and figures: without the target's images first, then by what is trained
_KINDS = (
    "clip-pooled",
    "clip-patch",
    "winclip",
    "untrained",
    "memory",
    "probe",
    "projector",
    "zero-shot",
    "shot",
)


def place_of(group: str) -> tuple:
    """Where a method group stands in tables, as a key to sort by.

    >>> sorted(["10-shot/sound", "2-shot/paper", "2-shot/sound", "2-memory/sound", "clip-pooled"], key=place_of)
    ['clip-pooled', '2-memory/sound', '2-shot/sound', '2-shot/paper', '10-shot/sound']
    """
    setting, _, protocol = group.partition("/")
    shots = shots_of(group)
    kind = setting.removeprefix(f"{shots}-")
    return (_KINDS.index(kind) if kind in _KINDS else len(_KINDS), shots, protocol != "sound", protocol)


BASELINE_LABELS = {
    "winclip": "CLIP, windows",
    "memory": "CLIP + memory, {k} normal",
    "probe": "linear probe, {k}-shot",
    "projector": "projector, {k}-shot",
}


def baseline_label(group: str) -> str | None:
    """What tables call a method group, or None where it is none of `baselines.py`.

    >>> baseline_label("4-memory/sound"), baseline_label("winclip"), baseline_label("4-shot/sound")
    ('CLIP + memory, 4 normal', 'CLIP, windows', None)
    """
    shots, _, key = group.split("/")[0].rpartition("-")
    return BASELINE_LABELS[key].format(k=shots) if key in BASELINE_LABELS else None


def several_protocols(groups: Iterable[str]) -> bool:
    """Whether a table of these groups must name protocols."""
    return len({group.split("/")[1] for group in groups if "/" in group}) > 1


def run_folder(shots: int, protocol: str) -> str:
    """Where a data set's runs of one kind lie: `few-4-sound`, `zero-sound`."""
    return f"few-{shots}-{protocol}" if shots else f"zero-{protocol}"
