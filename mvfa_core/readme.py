"""Puts the measured tables into the documents, between their markers: `python -m mvfa_core.readme`."""

import re
from pathlib import Path

from mvfa_core.errors import MvfaError
from mvfa_core.writing import write_text

# which documents show tables, and from which folder
DOCUMENTS = {
    "README.md": "results/tables",
    "docs/speed.md": "benchmarks/results",
    "docs/own-images.md": "benchmarks/results",
}

MARKER = re.compile(r"(<!-- (?P<name>[a-z_]+): begin -->\n).*?(<!-- (?P=name): end -->)", re.DOTALL)


def embed(text: str, tables: Path) -> str:
    """`text` with every block `<!-- NAME: begin --> ... <!-- NAME: end -->` replaced by `<tables>/NAME.md`.

    Raises:
        MvfaError: a named table does not exist.
    """

    def block(match: re.Match) -> str:
        path = tables / f"{match['name']}.md"
        if not path.is_file():
            raise MvfaError(f"{path}: table is missing; run `make results`")
        return f"{match[1]}\n{path.read_text(encoding='utf-8').strip()}\n\n{match[3]}"

    return MARKER.sub(block, text)


if __name__ == "__main__":
    for name, folder in DOCUMENTS.items():
        document = Path(name)
        write_text(document, embed(document.read_text(encoding="utf-8"), Path(folder)))
