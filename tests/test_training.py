import torch

from mvfa_core.training import TrainingPart, batches


def part(name: str, count: int) -> TrainingPart:
    return TrainingPart(name, torch.zeros(count, 1, 1), torch.zeros(count), None, torch.zeros(1, 2))


def test_an_epoch_shows_every_image_once_in_batches_of_one_data_set():
    parts = [part("a", 7), part("b", 4)]
    found = batches(parts, 3, torch.Generator().manual_seed(0))
    seen = {name: sorted(int(r) for p, rows in found if p.name == name for r in rows) for name in "ab"}
    assert seen == {"a": list(range(7)), "b": list(range(4))}
    assert sorted(len(rows) for _, rows in found) == [1, 1, 3, 3, 3]


def test_the_order_comes_from_the_generator_alone():
    def order(seed):
        return [
            (p.name, rows.tolist())
            for p, rows in batches([part("a", 9)], 2, torch.Generator().manual_seed(seed))
        ]

    assert order(1) == order(1) != order(2)
