import json
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from recipe.arguments import DataArguments
from recipe.data.dividing import choose_validation, groups, split_folder, tenths, write_division
from recipe.data.opening import require_split
from recipe.data.repeats import Texts
from recipe.data.splits import iterate
from recipe.errors import UserError
from tests.utils import make_pairs, write_jsonl


def made(count, sentences, seed=0):
    """Pairs out of so many sentences, some of which are alike but for case."""
    rng = random.Random(seed)
    drawn = [[f"{rng.choice('xX')}{rng.randrange(sentences)}" for _ in range(2)] for _ in range(count)]
    return [{"sentence1": a, "sentence2": b, "label": rng.randrange(2)} for a, b in drawn]


def test_rows_that_share_a_sentence_or_are_joined_by_such_are_one_group():
    rows = [("a", "b"), ("c", "d"), ("B", "e"), ("f", "f"), ("d", "g"), ("e", "a")]
    found = groups(Texts([{"sentence1": a, "sentence2": b, "label": 0} for a, b in rows]).rows).tolist()
    assert [found.index(group) for group in found] == [0, 1, 0, 3, 1, 0]
    single = Texts([{"sentence1": a, "sentence2": None, "label": 0} for a in "abA"]).rows
    assert len(set(groups(single).tolist())) == 2


@pytest.mark.parametrize("seed", range(5))
def test_no_sentence_is_in_both_and_labels_keep_their_shares(seed):
    rows = made(2000, 9000, seed)
    texts, labels = Texts(rows), [row["label"] for row in rows]
    chosen = choose_validation(texts.rows, labels, 0.1, seed)
    sides = [
        {key for keys, there in zip(texts.rows, chosen, strict=True) if there == side for key in keys}
        for side in (0, 1)
    ]
    assert sides[0] & sides[1] == set()
    drawn = Counter(label for label, there in zip(labels, chosen, strict=True) if there)
    for label, count in Counter(labels).items():
        assert 0.08 * count < drawn[label] <= round(0.1 * count)
    assert choose_validation(texts.rows, labels, 0.1, seed) == chosen
    assert choose_validation(texts.rows, labels, 0.1, seed + 1) != chosen


def test_the_files_hold_the_rows_in_order_under_the_same_columns(tmp_path):
    rows = [
        {"nr": i, "q1": row["sentence1"], "q2": row["sentence2"], "gold": row["label"]}
        for i, row in enumerate(make_pairs(20))
    ]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    flags = {"text_column_names": "q1,q2", "label_column_name": "gold", "id_column_name": "nr"}
    args = DataArguments(train_file=str(path), **flags)
    folder = split_folder(args, 0.25, 42)
    assert folder == tmp_path / "split-0.25-seed-42"
    split = require_split(args, "train")
    write_division(split, args, [i % 4 == 1 for i in range(20)], folder)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["split-0.25-seed-42", "train.jsonl"]
    texts = {name: (folder / f"{name}.json").read_text("utf-8") for name in ("train", "validation")}
    read = {name: [json.loads(line) for line in text.splitlines()] for name, text in texts.items()}
    assert read["validation"] == rows[1::4]
    assert read["train"] == [row for i, row in enumerate(rows) if i % 4 != 1]
    again = require_split(DataArguments(data_dir=str(folder), **flags), "validation")
    assert list(iterate(again.pairs)) == list(iterate(split.pairs))[1::4]
    with pytest.raises(UserError, match=r"--split 0.25: .*split-0.25-seed-42 is there already; move it away"):
        split_folder(args, 0.25, 42)


def test_the_hubs_data_have_no_place_beside_them():
    with pytest.raises(UserError, match="--split: the new files go beside the old ones; --data_dir or --train_file"):
        split_folder(DataArguments(), 0.1, 42)


def test_tenths_are_as_large_as_equal_scores_let_them_be():
    scores = np.random.default_rng(0).permutation(1000) / 100
    found = tenths(scores)
    assert Counter(found) == dict.fromkeys(range(10), 100)
    assert all(a <= b for (_, a), (_, b) in pairwise(sorted(zip(scores, found, strict=True))))
    equal = tenths(np.array([0.0] * 6 + [2.5] * 3 + [5.0]))
    assert len(set(equal)) == 3
    assert [len(set(equal[part])) for part in (slice(0, 6), slice(6, 9))] == [1, 1]
