import pytest
from transformers import AutoTokenizer

from recipe.batches import tokenization as truncation
from recipe.batches.tokenization import encode_pairs
from tests.utils import CHARACTERS


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_length", [8, 9, 16])
def test_pairs_are_cut_as_the_tokenizer_cuts_them(tiny_model, monkeypatch, side, max_length):
    monkeypatch.setattr(truncation, "AT_ONCE", 50)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, truncation_side=side)
    pairs = [(CHARACTERS[:first], CHARACTERS[10 : 10 + second]) for first in range(1, 18) for second in range(1, 18)]
    first, second = zip(*pairs, strict=True)
    expected = tokenizer(list(first), list(second), truncation=True, max_length=max_length, return_token_type_ids=True)
    ids, types, cut = encode_pairs(first, second, tokenizer, max_length)
    assert ids == expected["input_ids"]
    assert types == expected["token_type_ids"]
    assert cut == [len(a) + len(b) > max_length - 3 for a, b in pairs]


@pytest.mark.parametrize("side", ["right", "left"])
def test_single_sentences_are_cls_a_sep_and_cut_as_the_tokenizer_cuts_them(tiny_model, side):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, truncation_side=side)
    sentences = [CHARACTERS[:length] for length in range(1, 12)]
    expected = tokenizer(sentences, truncation=True, max_length=8, return_token_type_ids=True)
    ids, types, cut = encode_pairs(sentences, None, tokenizer, 8)
    assert (ids, types) == (expected["input_ids"], expected["token_type_ids"])
    assert tokenizer.convert_ids_to_tokens(ids[1]) == ["[CLS]", *CHARACTERS[:2], "[SEP]"]
    assert cut == [length > 6 for length in range(1, 12)]


def test_sentences_of_any_length_are_encoded_a_million_characters_at_once():
    sizes = [5, 900_000, 99_995, 2_000_000, 1, 2]
    assert list(truncation._parts(sizes)) == [(0, 3), (3, 4), (4, 6)]
    assert list(truncation._parts([])) == []


def test_a_long_pair_costs_memory_by_its_length(tiny_model):
    """The library's own cut would ask for 24 GB here."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids, _, cut = encode_pairs(["花" * 50_000], ["呗" * 50_000], tokenizer, 128)
    assert (len(ids[0]), cut) == (128, [True])
