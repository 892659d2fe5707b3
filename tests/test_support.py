import pytest
from conftest import write_dataset

from mvfa_core.datasets import ImageDataset
from mvfa_core.errors import MvfaError
from mvfa_core.settings import DatasetEntry
from mvfa_core.support import draw_support, read_support


@pytest.fixture
def pool(tmp_path):
    write_dataset(tmp_path / "Brain_AD", masks=True)
    return ImageDataset("Brain", DatasetEntry(root="Brain_AD", organ="Brain", masks=True), tmp_path).records(
        "valid"
    )


def test_a_draw_is_balanced_and_disjoint_from_the_rest(pool):
    support = draw_support(pool, 2, draw=0, seed=7)
    assert [r.label for r in support.chosen] == [0, 0, 1, 1]
    assert len(set(support.chosen)) == 4 and not set(support.chosen) & set(support.rest)
    assert len(support.chosen) + len(support.rest) == len(pool)


def test_draws_are_repeatable_differ_and_nest(pool):
    assert draw_support(pool, 4, 0, 7) == draw_support(pool, 4, 0, 7)
    assert draw_support(pool, 4, 0, 7) != draw_support(pool, 4, 1, 7)
    assert draw_support(pool, 4, 0, 7).normal[:2] == draw_support(pool, 2, 0, 7).normal


def test_k_larger_than_the_pool(pool):
    with pytest.raises(MvfaError, match="shots: 7 is more than the 6 normal images"):
        draw_support(pool, 7, 0, 7)


def test_the_authors_lists(pool, tmp_path):
    path = tmp_path / "2-shot.txt"
    path.write_text(
        "n-0: 001.png 003.png\na-0: 000.png 005.png\nn-1: 002.png 004.png\na-1: 001.png 002.png\n"
    )
    support = read_support(pool, path, draw=1)
    assert support.names() == {
        "normal": ["valid/good/002.png", "valid/good/004.png"],
        "abnormal": ["valid/Ungood/001.png", "valid/Ungood/002.png"],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("n-1: 001.png\na-1: 001.png\n", "no line 'n-0"),
        ("n-0: 001.png\n", "no line 'a-0"),
        ("n-0: 099.png\na-0: 001.png\n", "099.png is not in the valid split"),
    ],
)
def test_bad_lists(pool, tmp_path, content, message):
    path = tmp_path / "1-shot.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MvfaError, match=message):
        read_support(pool, path, draw=0)
