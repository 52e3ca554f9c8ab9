import json

import pytest

from benchmarks.bench import at_quantiles, epoch_batches, lengths_of
from benchmarks.scale import write_pairs
from recipe.arguments import DataArguments
from recipe.data.opening import open_split


@pytest.mark.parametrize("system", ["b", "d", "h"])
def test_an_epoch_of_each_order_holds_the_lengths_once(system):
    lengths = lengths_of("train")[:1024]
    batches = epoch_batches(system, lengths)
    assert sorted(length for batch in batches for length in batch) == sorted(lengths)
    assert len(at_quantiles(batches, 3)) == 3


def test_the_lengths_are_afqmcs():
    lengths = lengths_of("train")
    assert len(lengths) == 34_334
    assert 29 < sum(lengths) / len(lengths) < 30.5


def test_generated_pairs_are_pairs_in_shards(tmp_path):
    write_pairs(tmp_path / "data", 100, 7)
    split = open_split(DataArguments(data_dir=str(tmp_path / "data")), "train")
    assert (split.rows, split.shards) == (100, 7)
    line = (tmp_path / "data" / "train-0.jsonl").read_text().splitlines()[0]
    assert json.loads(line).keys() == {"sentence1", "sentence2", "label"}
