from recipe.data.pairs import UNLABELLED
from recipe.data.repeats import Overlap, Repeats, Texts, sentence_key


def texts(*rows):
    return Texts([{"sentence1": a, "sentence2": b, "label": label} for a, b, label in rows])


def test_case_width_and_white_space_make_no_other_sentence():
    assert sentence_key("花呗 ＡＢＣ１") == sentence_key("花呗abc1")
    assert sentence_key("花呗") != sentence_key("借呗")
    assert sentence_key(None) == b""


def test_repeats_are_counted_with_their_labels_and_orders():
    rows = [("a", "b", 0), ("A ", "b", 1), ("b", "a", 0), ("c", "d", 1), ("d", "c", 1), ("c", "d", 1), ("e", "e", 0)]
    assert texts(*rows).repeats() == Repeats(rows=2, contradicting=1, swapped=2, swapped_contradicting=1)
    assert texts(("a", None, 0), ("a", None, 1), ("b", None, 1)).repeats() == Repeats(1, 1, 0, 0)


def test_what_two_splits_have_in_common():
    train = texts(("a", "b", 0), ("c", "d", 1), ("e", "f", 0))
    other = texts(("b", "a", 1), ("c", "d", 1), ("e", "x", 0), ("f", "e", UNLABELLED))
    assert other.overlap(train) == Overlap(rows=3, contradicting=1, sentences=6)
    assert train.overlap(texts()) == Overlap(0, 0, 0)
    assert texts(("a", None, 0)).overlap(texts(("a", None, 1))) == Overlap(1, 1, 1)
