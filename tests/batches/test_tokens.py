from recipe.batches.tokens import SortedPairs, read_tokens
from tests.utils import examples


def columns(rows):
    return {key: [row[key] for row in rows] for key in rows[0]}


def test_tokens_hold_every_example():
    rows = examples(50)
    tokens = read_tokens(iter([columns(rows[:30]), columns(rows[30:])]))
    assert [tokens.example(index) for index in range(50)] == rows
    assert tokens.lengths.tolist() == [len(row["input_ids"]) for row in rows]


def test_the_first_pairs_are_a_split_of_their_own():
    rows = examples(50)
    head = read_tokens(iter([columns(rows)])).head(20)
    alone = read_tokens(iter([columns(rows[:20])]))
    assert [part.tolist() for part in head[:4]] == [part.tolist() for part in alone[:4]]
    assert [head.example(index) for index in range(20)] == rows[:20]


def test_evaluation_pairs_are_sorted_and_know_their_place():
    rows = examples(50)
    tokens = read_tokens(iter([columns(rows)]))
    pairs = SortedPairs(tokens.lengths, tokens.example)
    lengths = [len(pair["input_ids"]) for pair in (pairs[i] for i in range(len(pairs)))]
    assert lengths == sorted(lengths)
    assert [rows[place] for place in pairs.order] == [pairs[i] for i in range(50)]
