"""Tokenised pairs end to end in a few arrays, and the data set of evaluation."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Example = dict[str, Any]


class Tokens(NamedTuple):
    """A split's tokens: pair i has the elements offsets[i] to offsets[i + 1] of input_ids and token_type_ids."""

    input_ids: Tensor  # int32
    token_type_ids: Tensor  # uint8
    offsets: Tensor  # int64, (pairs + 1,)
    labels: Tensor  # int64, (pairs,)
    cut: int = 0  # pairs of the whole split that were longer than --max_length

    @property
    def lengths(self) -> Tensor:
        """Tokens of each pair."""
        return self.offsets.diff()

    def head(self, count: int) -> "Tokens":
        """The first `count` pairs."""
        end = int(self.offsets[count])
        ids, types = self.input_ids[:end], self.token_type_ids[:end]
        return Tokens(ids, types, self.offsets[: count + 1], self.labels[:count], self.cut)

    def describe_cut(self, source: str) -> list[str]:
        """How many pairs were cut, where some were."""
        return describe_cut(source, self.cut, len(self.labels))

    def sha256(self) -> str:
        """Of the ids, types and lengths."""
        digest = hashlib.sha256()
        for part in (self.input_ids, self.token_type_ids, self.offsets):
            digest.update(part.numpy().data)
        return digest.hexdigest()

    def example(self, index: int) -> Example:
        """One pair as `tokenize` gives it."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        ids, types = self.input_ids[span].tolist(), self.token_type_ids[span].tolist()
        return {"input_ids": ids, "token_type_ids": types, "labels": int(self.labels[index])}


def read_tokens(batches: Iterator[dict[str, list[Any]]]) -> Tokens:
    """The tokens of batches of examples, in memory."""
    ids, types, lengths, labels, cut = [], [], [], [], 0
    for batch in batches:
        ids.append(np.concatenate([np.asarray(row, dtype=np.int32) for row in batch["input_ids"]]))
        types.append(np.concatenate([np.asarray(row, dtype=np.uint8) for row in batch["token_type_ids"]]))
        lengths += [len(row) for row in batch["input_ids"]]
        labels += batch["labels"]
        cut += sum(batch.get("cut", []))
    if not ids:
        ids, types = [np.zeros(0, np.int32)], [np.zeros(0, np.uint8)]
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))
    arrays = torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(types))
    return Tokens(*arrays, offsets, torch.tensor(labels, dtype=torch.int64), cut)


def describe_cut(source: str, cut: int, pairs: int, which: str = "") -> list[str]:
    """How many of `pairs` were cut, where some were; `which` of the split's pairs those are, if not all."""
    return [f"note: {cut:,} of {which}{pairs:,} pairs of {source} are cut at --max_length"] if cut else []


class SortedPairs(Dataset):
    """Evaluation's examples, shortest first; the i-th stood at `order[i]` in its split."""

    def __init__(self, lengths: Tensor, item: Callable[[int], Example]) -> None:
        self.order = torch.argsort(lengths, stable=True).tolist()
        self.item = item

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        return self.item(self.order[index])
