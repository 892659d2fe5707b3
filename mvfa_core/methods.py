"""What results call a method: `4-shot/sound/2` is one run, `4-shot/sound` its group over support draws."""

from collections.abc import Iterable


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


def several_protocols(groups: Iterable[str]) -> bool:
    """Whether a table of these groups must name protocols."""
    return len({group.split("/")[1] for group in groups if "/" in group}) > 1


def run_folder(shots: int, protocol: str) -> str:
    """Where a data set's runs of one kind lie: `few-4-sound`, `zero-sound`."""
    return f"few-{shots}-{protocol}" if shots else f"zero-{protocol}"
