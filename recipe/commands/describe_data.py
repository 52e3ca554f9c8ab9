"""A run's splits in words: labels, lengths and repeats, what their batches carry and what the prefix cache takes."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from recipe.arguments import RecipeArguments
from recipe.batches.tokens import Tokens
from recipe.cache.encoding import Base, Encoding, equal_length_batches, prefix_runner
from recipe.cache.finding import GIGABYTE, missing_pairs
from recipe.cache.key import batch_pairs, pair_hashes
from recipe.cache.policy import choose_key, describe_kept, what_fits, why_not, why_nothing_fits
from recipe.cache.store import open_store
from recipe.data.pairs import UNLABELLED
from recipe.data.repeats import Texts
from recipe.data.splits import Split
from recipe.model.freezing import freeze
from recipe.model.modeling import BertForPairwiseCLS
from recipe.training.feeding import ordered

TIMED = 12  # batches, of lengths from the longest to the shortest


class Read(NamedTuple):
    """A split read whole."""

    split: Split
    tokens: Tokens
    texts: Texts


def describe(read: Read) -> Iterator[tuple[str, str]]:
    """A split's rows, labels, lengths and repeats."""
    split, tokens, texts = read
    yield split.name, split.describe().partition(": ")[2]
    rows, labelled = len(tokens.labels), tokens.labels[tokens.labels != UNLABELLED].numpy()
    if rows != split.rows:
        yield "  rows", f"{rows:,} were read, where the data set's metadata says {split.rows:,}; a run refuses that"
    if len(labelled):
        yield "  labels", _scores(labelled) if split.regression else _classes(labelled, split.label_names)
    if len(labelled) < rows:
        yield "  labels", f"{rows - len(labelled):,} {split.unit} without one"
    at = np.quantile(tokens.lengths.numpy(), (0, 0.5, 0.9, 0.99, 1), method="inverted_cdf").tolist()
    cut = f"{tokens.cut:,} cut at --max_length ({tokens.cut / rows:.2%})"
    yield "  tokens", f"{at[0]} to {at[-1]}, half up to {at[1]}, 90 % up to {at[2]}, 99 % up to {at[3]}; {cut}"
    seen = texts.repeats()
    yield (
        "  repeated",
        f"{seen.rows:,} rows repeat an earlier one; {seen.contradicting:,} {split.unit} have several "
        f"{'scores' if split.regression else 'labels'}",
    )
    if split.unit == "pairs":
        differ = f"{seen.swapped_contradicting:,} of them with other {'scores' if split.regression else 'labels'}"
        yield "  swapped", f"{seen.swapped:,} pairs stand there in the other order too, {differ}"


def _classes(labels: np.ndarray, names: Sequence[str]) -> str:
    """How many of the rows with a label have each of them, and what always answering the most frequent one gets."""
    named = [(names[label], count) for label, count in sorted(Counter(labels.tolist()).items())]
    shares = ", ".join(f"{name} {count:,} ({count / len(labels):.1%})" for name, count in named)
    most, count = max(named, key=lambda each: each[1])
    return f"{shares}; always answering {most}: {count / len(labels):.4f}"


def _scores(labels: np.ndarray) -> str:
    """How scores are spread, and what always answering their mean gets."""
    at = np.quantile(labels, (0, 0.25, 0.5, 0.75, 1)).tolist()
    spread = f"{at[0]:g} to {at[4]:g}, a quarter up to {at[1]:g}, half up to {at[2]:g}, three quarters up to {at[3]:g}"
    return f"scores {spread}; always answering the mean, {labels.mean():.4g}: squared error {labels.var():.4f}"


def describe_overlap(one: Read, other: Read) -> str:
    """What of two splits is in both."""
    found = other.texts.overlap(one.texts)
    return (
        f"{found.rows:,} rows of {other.split.name} are in {one.split.name} too, {found.contradicting:,} with another "
        f"{'score' if one.split.regression else 'label'}; {found.sentences:,} sentences are in both"
    )


class _Lengths:
    """A Source of how many tokens each pair has."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths

    def take(self, indices: list[int]) -> list[int]:
        """Look them up."""
        return [self.lengths[index] for index in indices]

    def skip(self, indices: list[int]) -> None:
        """Nothing to do."""


def padding(tokens: Tokens, arguments: RecipeArguments) -> float:
    """Tokens that the first epoch's batches carry, for each real one."""
    source = _Lengths(tokens.lengths.tolist())
    batches = ordered(lambda: source, int, len(source.lengths), arguments)
    return sum(max(batch) * len(batch) for batch in batches if batch) / sum(source.lengths)


def describe_cache(arguments: RecipeArguments, model: BertForPairwiseCLS, splits: Sequence[Read]) -> Iterator[str]:
    """Whether a run trains from the prefix cache, what that takes, and how long making it does: some batches are timed.

    Args:
        splits: the training split and, where there is one, the validation split.
    """
    freeze(model, arguments.freeze)
    tokens = [each.tokens for each in splits]
    reason = why_not(model, arguments, None, splits[0].split.rows)
    heads = [] if reason else what_fits(model, tokens, arguments)
    reason = reason or why_nothing_fits(heads[0], arguments)
    if reason is not None:
        yield f"off, {reason}"
        return
    key, directory = choose_key(model, arguments, None), Path(arguments.cache.prefix_cache_dir)
    jobs = [
        Encoding(model, head, pair_hashes(head), key, directory, split.source)
        for head, (split, *_) in zip(heads, splits, strict=True)
    ]
    store, size, missing, computed = open_store(directory, key), 0, 0, 0
    for job in jobs:
        size += int(job.rows[missing_pairs(None, job)].sum()) * key.row_bytes
        lengths = job.tokens.lengths[missing_pairs(store, job)]
        missing += int(lengths.sum())
        computed += sum(_computed(lengths, batch, job) for batch in equal_length_batches(lengths, key.batch_tokens))
    what = f"{size / GIGABYTE:.2f} GB at depth {key.depth} in {key.dtype}"
    if missing:
        seconds = computed / time_encoding(jobs[0], arguments)
        yield f"{what}; {missing:,} tokens to encode at {missing / seconds:,.0f} a second: {seconds:,.0f} s"
    else:
        yield f"{what}, all of it there"
    yield from filter(None, [describe_kept(heads, tokens, arguments)])


def _computed(lengths: torch.Tensor, batch: torch.Tensor, job: Encoding) -> int:
    """Tokens that a batch of the encoding pass computes, which is filled up where pairs run short."""
    length = int(lengths[batch[0]])
    return batch_pairs(length, job.key.batch_tokens) * length


def time_encoding(job: Encoding, arguments: RecipeArguments) -> float:
    """Tokens a second that the encoding pass computes, over lengths from end to end; nothing is kept."""
    lengths = job.tokens.lengths
    batches = list(equal_length_batches(lengths, job.key.batch_tokens))
    some = batches[:: max(1, len(batches) // TIMED)][:TIMED]
    run, dtype = prefix_runner(job, arguments.training.device), getattr(torch, job.key.compute_dtype)
    with torch.inference_mode():
        run(Base(), some[-1], dtype)  # the first is slower
        start = time.perf_counter()
        for batch in some:
            run(Base(), batch, dtype).sum().item()  # waits for the device
    return sum(_computed(lengths, batch, job) for batch in some) / (time.perf_counter() - start)
