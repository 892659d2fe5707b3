"""Published weights as a file of one's own, so that the pipeline can depend on it."""

import difflib
import shutil
from functools import partial
from pathlib import Path

import open_clip
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

from mvfa_core.backbones import fetch
from mvfa_core.errors import MvfaError
from mvfa_core.weights import read_weights
from mvfa_core.writing import write_through


def fetch_weights(model: str, tag: str, file: str | Path) -> tuple[int, str]:
    """Download what `open_clip` calls `model`/`tag` to `file`; return its tensors and the kind of file.

    The file is kept as it was published, and read once: `file` appears only when its content is sound. What
    `open_clip` has in its cache is not downloaded again.

    Raises:
        MvfaError: `open_clip` knows no such model or tag, the download fails, the content is damaged, or
            `file` exists or cannot be written.
    """
    file, name = Path(file), model.replace("/", "-")
    if file.exists():
        raise MvfaError(f"{file}: exists already; remove it to fetch it anew")
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), n=1)
        raise MvfaError(
            f"'{model}' is no model of open_clip" + (f"; did you mean '{near[0]}'?" if near else "")
        )
    tags = list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise MvfaError(f"'{tag}' is no tag of {name}; it has {', '.join(tags) or 'none'}")
    fetched = fetch(f"{name}/{tag}", lambda: download_pretrained(get_pretrained_cfg(name, tag)))
    tensors, kind = read_weights(fetched)
    write_through(file, partial(shutil.copyfile, fetched))
    return len(tensors), kind
