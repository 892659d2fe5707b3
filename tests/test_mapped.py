"""Weights mapped from a file: the same numbers, and memory only while somebody looks at them."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvfa_core import mapped
from mvfa_core.mapped import ALIGNED, hash_of, is_whole, map_file, release, write_file

STATUS = Path("/proc/self/status")
needs_counts = pytest.mark.skipif(
    not STATUS.exists(), reason="only Linux tells how much of a file is in memory"
)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.scalar": torch.tensor(4.6),
        "b.odd": torch.randn(3, 5, generator=generator),
        "c.large": torch.randn(1024, 4096, generator=generator),
        "d.turned": torch.randn(64, 32, generator=generator).T,
        "e.count": torch.tensor([7, 8]),
        "f.none": torch.zeros(0, 4),
    }


def written(path: Path, values: dict[str, torch.Tensor], **metadata: str) -> Path:
    with path.open("w+b") as file:
        write_file(file, values, {name: value.dtype for name, value in values.items()}, metadata)
    return path


def mapped_mib() -> int:
    """MiB of files in this process's memory."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) // 1024


def test_what_is_written_is_read_by_this_module_and_by_safetensors(tmp_path):
    path = written(tmp_path / "file", tensors(), kind="test")
    found, metadata = map_file(path)
    foreign = load_file(path)
    assert metadata["kind"] == "test" and found.keys() == foreign.keys() == tensors().keys()
    for name, value in tensors().items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
        assert torch.equal(foreign[name], value), name


def test_large_tensors_start_where_kernels_want_them(tmp_path):
    found, _ = map_file(written(tmp_path / "file", tensors()))
    for name in ("c.large", "d.turned"):
        assert found[name].data_ptr() % ALIGNED == 0, name


def test_another_precision_on_disk(tmp_path):
    values = {"a": torch.randn(10, 10)}
    with (tmp_path / "file").open("w+b") as file:
        write_file(file, values, {"a": torch.bfloat16}, {})
    assert torch.equal(map_file(tmp_path / "file")[0]["a"], values["a"].bfloat16())


def test_foreign_files_are_mapped_or_read(tmp_path):
    values = {
        "half": torch.randn(5).half(),
        "eight": torch.randn(7).to(torch.float8_e4m3fn),
        "wide": torch.randn(3).double(),
        "yes": torch.tensor([True, False]),
    }
    save_file(values, tmp_path / "file", metadata={"from": "elsewhere"})
    found, metadata = map_file(tmp_path / "file")
    assert metadata == {"from": "elsewhere"}
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name].float(), value.float()), name


def test_a_tensor_off_its_border_is_read_all_the_same(tmp_path):
    """Other writers may order tensors as they like."""
    numbers = torch.arange(4.0)
    header = {
        "flag": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "numbers": {"dtype": "F32", "shape": [4], "data_offsets": [1, 17]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (tmp_path / "file").write_bytes(
        len(text).to_bytes(8, "little") + text + b"\x05" + numbers.numpy().tobytes()
    )
    found, _ = map_file(tmp_path / "file")
    assert found["flag"].tolist() == [5] and torch.equal(found["numbers"], numbers)


@pytest.mark.parametrize("place", [-1, 4096, 9])
def test_one_changed_byte_is_noticed(tmp_path, place):
    path = written(tmp_path / "file", tensors())
    assert is_whole(path)
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    if place == 9:
        # the checksum itself
        place = content.index(b"sha256") + 12
    elif place > 0:
        place += header
    content[place] ^= 1
    path.write_bytes(content)
    assert not is_whole(path)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "CHUNK", 10)
    (tmp_path / "file").write_bytes(b"twenty-five bytes of text")
    assert hash_of(tmp_path / "file") == hashlib.sha256(b"twenty-five bytes of text").hexdigest()


@needs_counts
def test_memory_comes_and_goes(tmp_path):
    path = written(tmp_path / "file", {"a": torch.ones(2**24)})
    before = mapped_mib()
    value = map_file(path)[0]["a"]
    assert mapped_mib() < before + 8
    assert value.sum() == 2**24
    assert mapped_mib() >= before + 60
    release(value)
    assert mapped_mib() < before + 8
    assert value.sum() == 2**24


@needs_counts
def test_writing_a_mapped_tensor_holds_one_at_a_time(tmp_path):
    source, _ = map_file(written(tmp_path / "first", {name: torch.ones(2**22) for name in "abcd"}))
    before = mapped_mib()
    written(tmp_path / "second", source)
    assert mapped_mib() < before + 8


@needs_counts
def test_small_tensors_stay(tmp_path, monkeypatch):
    path = written(tmp_path / "file", {str(i): torch.ones(2**17) for i in range(64)})
    before, values = mapped_mib(), map_file(path)[0].values()
    assert sum(value.sum() for value in values) == 2**23
    for worth, left in ((mapped.WORTH, 30), (2**19, 0)):
        monkeypatch.setattr(mapped, "WORTH", worth)
        for value in values:
            release(value)
        assert abs(mapped_mib() - before - left) < 8


def test_what_was_written_to_is_never_given_back(tmp_path):
    path = written(tmp_path / "file", {"a": torch.ones(2**20)})
    content = path.read_bytes()
    value = map_file(path)[0]["a"]
    parameter = torch.nn.Parameter(value, requires_grad=False)
    with torch.no_grad():
        parameter.mul_(3)
    release(parameter)
    assert torch.equal(parameter, torch.full((2**20,), 3.0))
    assert path.read_bytes() == content


def test_tensors_of_no_file_are_left_alone():
    value = torch.ones(2**20)
    release(value)
    release(torch.ones(3, device="meta"))
    assert value.sum() == 2**20


def test_a_mapping_ends_with_its_tensors(tmp_path):
    found, _ = map_file(written(tmp_path / "file", {"a": torch.ones(2**20)}))
    place = mapped._places[found["a"].data_ptr()]
    assert place.mapping() is not None
    kept = found.pop("a")[5:]
    assert place.mapping() is not None and kept.sum() == 2**20 - 5
    del kept
    assert place.mapping() is None


def test_a_file_that_is_gone_is_still_there_for_those_who_map_it(tmp_path):
    path = written(tmp_path / "file", {"a": torch.ones(2**20)})
    value = map_file(path)[0]["a"]
    path.unlink()
    release(value)
    assert value.sum() == 2**20
