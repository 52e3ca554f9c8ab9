import random

import pytest
import torch
from torch.utils.data import DataLoader

from recipe.batches.order import (
    WINDOW_STEPS,
    StepShape,
    Stream,
    TrainBatches,
    cut_step,
    shuffled,
)
from recipe.data.pairs import UNLABELLED
from recipe.errors import UserError
from tests.utils import examples


class Lookup:
    """A source that can seek."""

    def __init__(self, rows):
        self.rows, self.taken = rows, 0

    def take(self, indices):
        self.taken += len(indices)
        return [self.rows[i] for i in indices]

    def skip(self, indices):
        pass


def batches(rows, shape, epoch=0, buffer_size=100, seed=7, streamed=True):
    def open_source():
        return Stream(rows, len(rows), "rows") if streamed else Lookup(rows)

    made = TrainBatches(open_source, lambda row: len(row["input_ids"]), len(rows), shape, buffer_size, seed)
    made.set_epoch(epoch)
    return made


def ids(batch):
    return [row["input_ids"][0] for row in batch if row["labels"] != UNLABELLED]


@pytest.mark.parametrize("buffer_size", [1, 10, 1000])
def test_shuffle_is_a_permutation_that_a_buffer_can_serve(buffer_size):
    order = list(shuffled(300, buffer_size, random.Random(1)))
    assert sorted(order) == list(range(300))
    assert order == list(shuffled(300, buffer_size, random.Random(1)))
    assert all(index < place + buffer_size for place, index in enumerate(order))


def test_each_example_once_an_epoch_and_another_order_in_the_next():
    rows = examples(1003)
    first, second = (list(batches(rows, StepShape(8), epoch)) for epoch in (0, 1))
    for epoch in (first, second):
        assert sorted(i for batch in epoch for i in ids(batch)) == list(range(1003))
    assert [ids(b) for b in first] != [ids(b) for b in second]
    assert [ids(b) for b in first] == [ids(b) for b in batches(rows, StepShape(8), 0)]
    assert len(first) == len(batches(rows, StepShape(8))) == 126


def test_stream_and_random_access_give_the_same_batches():
    rows = examples(517)
    assert list(batches(rows, StepShape(8))) == list(batches(rows, StepShape(8), streamed=False))


@pytest.mark.parametrize("count", [512, 517, 513, 3])
def test_how_a_step_is_cut_up_changes_nothing_but_the_cut(count):
    rows = examples(count)
    whole = [sorted(ids(batch)) for batch in batches(rows, StepShape(32))]
    accumulated = list(batches(rows, StepShape(8, accumulation=4)))
    steps = [accumulated[start : start + 4] for start in range(0, len(accumulated), 4)]
    assert [sorted(i for batch in step for i in ids(batch)) for step in steps] == whole
    ranks = [list(batches(rows, StepShape(16, ranks=2, rank=rank))) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == len(batches(rows, StepShape(16, ranks=2)))
    assert [sorted(ids(a) + ids(b)) for a, b in zip(*ranks, strict=True)] == whole
    assert all(batch for rank in ranks for batch in rank)


def test_empty_micro_batch_carries_an_ignored_label():
    shape = StepShape(16, ranks=4, rank=0)
    assert cut_step([1, 2], shape) == [[]]
    (batch,) = batches(examples(2), shape)
    assert [row["labels"] for row in batch] == [UNLABELLED]
    (batch,) = batches([{**row, "labels": 0.5} for row in examples(2)], shape)
    assert [type(row["labels"]) for row in batch] == [float]


def test_batches_by_length_carry_next_to_no_padding():
    rows = examples(5000)
    real = padded = 0
    for batch in batches(rows, StepShape(32), buffer_size=2000):
        lengths = [len(row["input_ids"]) for row in batch]
        real, padded = real + sum(lengths), padded + max(lengths) * len(lengths)
    assert padded / real < 1.06


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_keep_the_order(workers, persistent):
    made = batches(examples(200), StepShape(8))
    loader = DataLoader(made, batch_size=None, collate_fn=list, num_workers=workers, persistent_workers=persistent)
    for epoch in (0, 1, 2):
        made.set_epoch(epoch)
        assert [ids(batch) for batch in loader] == [ids(batch) for batch in made]


@pytest.mark.parametrize("claimed", [9, 11])
def test_stream_of_another_length_than_promised_is_an_error(claimed):
    rows = examples(10)
    stream = Stream(rows, claimed, "the stream")
    with pytest.raises(UserError, match=r"the stream: .*rows"):
        stream.take(list(range(claimed)))


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("shape", [StepShape(2), StepShape(2, accumulation=3, ranks=2, rank=1)])
@pytest.mark.parametrize("passed", [0, 1, 49, 50, 149, 150, 151, 163])
def test_a_place_in_the_epoch_is_found_without_taking_what_lies_before_its_window(streamed, shape, passed):
    rows = examples(1003)
    whole = list(batches(rows, shape, streamed=streamed))
    made = batches(rows, shape, streamed=streamed)
    lookup = Lookup(rows)
    if not streamed:
        made.open_source = lambda: lookup
    made.set_epoch(0, passed)
    resumed = list(made)
    assert resumed[:passed] == [None] * passed
    assert resumed[passed:] == whole[passed:]
    if not streamed:
        windows = passed // (WINDOW_STEPS * shape.accumulation)
        assert lookup.taken == 1003 - windows * WINDOW_STEPS * shape.examples


def test_an_order_needs_no_shared_memory(monkeypatch):
    rows = examples(8)
    before = list(batches(rows, StepShape(2), 3))

    def full(*_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    assert list(batches(rows, StepShape(2), 3)) == before != list(batches(rows, StepShape(2), 2))
