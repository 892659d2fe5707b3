import hashlib

import pytest
import safetensors
import torch
from parity import fill_by_name
from standins import TRAPS

from mvfa_core.adapters import Adapters
from mvfa_core.checkpoints import BRANCHES, load_adapters, save_adapters, save_authors_format
from mvfa_core.errors import MvfaError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")

LEVELS, WIDTHS, BOTTLENECK = (1, 2, 3, 4), (8, 8, 12, 16), 6


def fresh(levels=LEVELS, widths=WIDTHS, bottleneck=BOTTLENECK, salt=None) -> Adapters:
    adapters = Adapters(levels, widths[: len(levels)], bottleneck)
    if salt is not None:
        fill_by_name(adapters, salt)
    return adapters


def same(first: Adapters, second: Adapters) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def authors_states(adapters: Adapters) -> dict:
    return {branch: getattr(adapters, branch).state_dict() for branch in BRANCHES}


def refused(path, adapters=None) -> str:
    adapters = adapters or fresh(salt=9)
    before = {name: value.clone() for name, value in adapters.state_dict().items()}
    with pytest.raises(MvfaError) as error:
        load_adapters(path, adapters)
    line = str(error.value)
    assert "\n" not in line and line.startswith(str(path))
    assert all(torch.equal(value, before[name]) for name, value in adapters.state_dict().items())
    return line


def test_our_files_come_back_with_metadata(tmp_path):
    path, kept = tmp_path / "deep" / "adapters.safetensors", fresh(salt=1)
    metadata = {"dataset": "Brain", "shots": "4", "draw": "0"}
    save_adapters(path, kept, metadata)
    loaded = fresh()
    assert load_adapters(path, loaded) == metadata
    assert same(loaded, kept)
    with safetensors.safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(kept.state_dict())
        assert "seg_adapters.0.fc1.0.weight" in set(file.keys())


def test_authors_files_load_and_are_written(tmp_path):
    kept = fresh(salt=2)
    torch.save(authors_states(kept), tmp_path / "Brain.pth")
    loaded = fresh()
    assert load_adapters(tmp_path / "Brain.pth", loaded) == {}
    assert same(loaded, kept)

    save_authors_format(tmp_path / "ours.pth", kept)
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert list(ours) == ["seg_adapters", "det_adapters"]
    names = [f"{level}.{layer}.0.weight" for level in range(4) for layer in ("fc1", "fc2")]
    assert list(ours["seg_adapters"]) == list(ours["det_adapters"]) == names
    assert same(kept, fresh(salt=2))


def test_the_authors_own_loading_reads_our_file(tmp_path):
    """Their code does `model.seg_adapters.load_state_dict(torch.load(path)['seg_adapters'])`."""
    kept, model = fresh(salt=3), fresh()
    save_authors_format(tmp_path / "ours.pth", kept)
    checkpoint = torch.load(tmp_path / "ours.pth")
    model.seg_adapters.load_state_dict(checkpoint["seg_adapters"])
    model.det_adapters.load_state_dict(checkpoint["det_adapters"])
    assert same(model, kept)


def test_half_precision_checkpoint_becomes_float32(tmp_path):
    halves = {b: {n: v.half() for n, v in s.items()} for b, s in authors_states(fresh(salt=1)).items()}
    torch.save(halves, tmp_path / "half.pth")
    loaded = fresh()
    load_adapters(tmp_path / "half.pth", loaded)
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())


def test_same_adapters_give_same_bytes(tmp_path):
    """Whatever the order of the metadata, which the library writes in another one each time."""
    metadata = {f"key{i}": str(i) for i in range(8)}
    digests = set()
    for _ in range(5):
        metadata = dict(reversed(metadata.items()))
        save_adapters(tmp_path / "a", fresh(salt=1), metadata)
        digests.add(hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("save", [lambda p, a: save_adapters(p, a, {}), save_authors_format])
def test_writing_is_all_or_nothing(save, tmp_path, monkeypatch):
    path = tmp_path / "adapters"
    save(path, fresh(salt=1))
    whole = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(MvfaError, match="No space left on device"):
        save(path, fresh(salt=2))
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("save", [lambda p, a: save_adapters(p, a, {}), save_authors_format])
def test_unwritable_folder_is_one_line(save, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MvfaError, match="cannot be written") as error:
        save(tmp_path / "file" / "adapters", fresh())
    assert "\n" not in str(error.value)


@pytest.fixture(params=["ours", "authors"])
def checkpoint(request, tmp_path):
    """A writer of `adapters` in one of the two formats, giving the path."""

    def write(adapters: Adapters):
        path = tmp_path / f"{request.param}.bin"
        if request.param == "ours":
            save_adapters(path, adapters, {"dataset": "Brain"})
        else:
            torch.save(authors_states(adapters), path)
        return path

    return write


def test_other_width_is_refused(checkpoint):
    line = refused(checkpoint(fresh(widths=(8, 8, 10, 16))))
    assert "'seg_adapters.2.fc1.0.weight' is 6 x 10, the model needs 6 x 12" in line


def test_other_bottleneck_is_refused(checkpoint):
    assert "is 4 x 8, the model needs 6 x 8" in refused(checkpoint(fresh(bottleneck=4)))


def test_other_number_of_levels_is_refused(checkpoint):
    line = refused(checkpoint(fresh(levels=(1, 2))))
    assert "has adapters for 2 levels, not 4; make backbone.levels match" in line


def test_truncated_checkpoint_is_refused(checkpoint):
    path = checkpoint(fresh(salt=1))
    whole = path.read_bytes()
    for length in (0, 5, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "fetch it again" in refused(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["seg_adapters"].pop("1.fc2.0.weight"), "'seg_adapters.1.fc2.0.weight' is missing"),
        (lambda s: s["det_adapters"].update({"0.fc3": torch.zeros(1)}), "'det_adapters.0.fc3' is unknown"),
        (lambda s: s.pop("det_adapters"), "must hold the state dicts seg_adapters and det_adapters"),
        (lambda s: s.update(epoch=3), "must hold the state dicts seg_adapters and det_adapters"),
        (lambda s: s.update(seg_adapters=[1]), "must hold the state dicts seg_adapters and det_adapters"),
        (
            lambda s: s["seg_adapters"].update({"0.fc1.0.weight": 3}),
            "0.fc1.0.weight' is no tensor",
        ),
        (lambda s: (s.clear(), s.update({"visual.proj": torch.zeros(2)})), "holds no 'seg_adapters'"),
        (lambda s: (s.clear(), s.update({4: torch.zeros(2)})), "'4' is no tensor"),
    ],
)
def test_unfit_authors_files_are_refused(change, message, tmp_path):
    states = {branch: dict(state) for branch, state in authors_states(fresh(salt=1)).items()}
    change(states)
    torch.save(states, tmp_path / "Brain.pth")
    assert message in refused(tmp_path / "Brain.pth")


@pytest.mark.parametrize("trap", TRAPS)
def test_code_in_a_checkpoint_is_refused_and_does_not_run(trap, tmp_path):
    path = tmp_path / "Brain.pth"
    path.write_bytes(TRAPS[trap](tmp_path / "sprung"))
    assert "code" in refused(path)
    assert not (tmp_path / "sprung").exists()


def test_missing_file_is_refused(tmp_path):
    assert "No such file" in refused(tmp_path / "gone.pth")
