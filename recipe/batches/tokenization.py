"""Sentence pairs, or single sentences, as tokens by `map`, the longer sentence of a pair cut first.

The cut is the tokenizers library's own, in memory that grows with the text:
with `truncation=True` the library also builds every piece that is cut off, and of a pair each piece of one sentence
with each of the other: 24 GB for two sentences of 50,000 characters, where 128 tokens were asked for.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import compress
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from recipe.data.splits import AnyDataset, Split, writing_arrow

AT_ONCE = 1_000_000  # characters that the tokenizer is given at once


def tokenize(
    pairs: AnyDataset, tokenizer: PreTrainedTokenizerBase, max_length: int, swapped: bool = False
) -> AnyDataset:
    """`pairs` with columns input_ids, token_type_ids (lists of at most `max_length`), labels and cut, without the text.

    cut is whether a pair was longer than that. With `swapped` the second sentence stands first.
    """
    order = ("sentence2", "sentence1") if swapped else ("sentence1", "sentence2")
    encode = partial(encode_batch, tokenizer=tokenizer, max_length=max_length, order=order)
    options: dict[str, Any] = {"batched": True, "remove_columns": ["sentence1", "sentence2", "label", "id"]}
    if isinstance(pairs, datasets.IterableDataset):
        return pairs.map(encode, **options)
    with writing_arrow():
        return pairs.map(encode, **options)


def tokenized(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Split:
    """The split with its pairs as tokens beside them."""
    return dataclasses.replace(split, examples=tokenize(split.pairs, tokenizer, max_length))


def encode_batch(
    batch: dict[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    order: tuple[str, str] = ("sentence1", "sentence2"),
) -> dict[str, list[Any]]:
    """The columns that `tokenize` gives, of a batch of pairs as columns."""
    first, second = batch[order[0]], batch[order[1]]
    ids, types, cut = encode_pairs(first, None if None in second else second, tokenizer, max_length)
    return {"input_ids": ids, "token_type_ids": types, "labels": batch["label"], "cut": cut}


def encode_pairs(
    first: Sequence[str], second: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], list[list[int]], list[bool]]:
    """input_ids and token_type_ids, at most `max_length` a pair, and whether a pair was longer.

    Without `second`, of single sentences: [CLS] a [SEP].
    The same as the tokenizer gives with `truncation=True`, whichever side it cuts.
    """
    ids: list[list[int]] = []
    types: list[list[int]] = []
    cut: list[bool] = []
    sizes = [len(a) for a in first] if second is None else [len(a) + len(b) for a, b in zip(first, second, strict=True)]
    for start, end in _parts(sizes):
        encoded = tokenizer(
            list(first[start:end]),
            None if second is None else list(second[start:end]),
            return_token_type_ids=True,
            return_attention_mask=False,
            verbose=False,
        )
        for number, (row, kinds) in enumerate(zip(encoded["input_ids"], encoded["token_type_ids"], strict=True)):
            long = len(row) > max_length
            kept = _kept(encoded.sequence_ids(number), max_length, tokenizer.truncation_side) if long else None
            ids.append(row if kept is None else list(compress(row, kept)))
            types.append(kinds if kept is None else list(compress(kinds, kept)))
            cut.append(long)
    return ids, types, cut


def _parts(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring rows of at most AT_ONCE characters together, or a single one."""
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if place > start and total + size > AT_ONCE:
            yield start, place
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


def _kept(sentences: Sequence[int | None], max_length: int, side: str) -> list[bool]:
    """Which tokens of a pair stay; `sentences` says which sentence each is of, None for [CLS] and [SEP]."""
    lengths = sentences.count(0), sentences.count(1)
    room = shares(*lengths, max_length - sentences.count(None))
    dropped = [length - share if side == "left" else 0 for length, share in zip(lengths, room, strict=True)]
    passed = [0, 0]
    kept = []
    for sentence in sentences:
        if sentence is not None:
            passed[sentence] += 1
        kept.append(sentence is None or 0 < passed[sentence] - dropped[sentence] <= room[sentence])
    return kept


def shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each sentence stay where both have `room` together (tokenizers' LongestFirst)."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    if short > room // 2:  # both are cut, to halves
        return (room - room // 2, room // 2) if first > second else (room // 2, room - room // 2)
    return (room - short, short) if first > second else (short, room - short)
