"""Tokenised pairs end to end in a few arrays, and the data set of evaluation."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recipe.data.splits import Split

Example = dict[str, Any]


class Tokens(NamedTuple):
    """A split's tokens: pair i has the elements offsets[i] to offsets[i + 1] of input_ids and token_type_ids."""

    input_ids: Tensor  # int32
    token_type_ids: Tensor  # uint8
    offsets: Tensor  # int64, (pairs + 1,)
    labels: Tensor  # (pairs,), int64, or float64 of scores
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

    def sorted_pairs(self) -> "SortedPairs":
        """All pairs, for evaluation."""
        return SortedPairs(self.lengths, self.example)

    def describe_cut(self, split: Split) -> list[str]:
        """How many of a split's pairs, or sentences, were cut, where some were."""
        return describe_cut(split.source, split.unit, self.cut, len(self.labels))

    def example(self, index: int) -> Example:
        """One pair as `tokenize` gives it."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        ids, types = self.input_ids[span].tolist(), self.token_type_ids[span].tolist()
        return {"input_ids": ids, "token_type_ids": types, "labels": self.labels[index].item()}


def flat_columns(batch: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """A batch of examples as arrays: ids and types end to end, and each pair's length and label."""
    return {
        "input_ids": _end_to_end(batch["input_ids"], np.int32),
        "token_type_ids": _end_to_end(batch["token_type_ids"], np.uint8),
        "lengths": np.asarray([len(row) for row in batch["input_ids"]], dtype=np.int64),
        "labels": np.asarray(batch["labels"], dtype=np.float64 if float in map(type, batch["labels"]) else np.int64),
    }


def _end_to_end(rows: list[list[int]], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(row, dtype) for row in rows)])


def read_tokens(batches: Iterator[dict[str, list[Any]]]) -> Tokens:
    """The tokens of batches of examples, in memory."""
    columns, cut = [flat_columns({"input_ids": [], "token_type_ids": [], "labels": []})], 0
    for batch in batches:
        columns.append(flat_columns(batch))
        cut += sum(batch.get("cut", []))
    ids, types, lengths, labels = (
        torch.from_numpy(np.concatenate([each[name] for each in columns])) for name in columns[0]
    )
    return Tokens(ids, types, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), labels, cut)


def describe_cut(source: str, unit: str, cut: int, rows: int, which: str = "") -> list[str]:
    """How many of `rows` were cut, where some were; `which` of the split's rows those are, if not all."""
    return [f"note: {cut:,} of {which}{rows:,} {unit} of {source} are cut at --max_length"] if cut else []


class SortedPairs(Dataset):
    """Evaluation's examples, shortest first; the i-th stood at `order[i]` in its split."""

    def __init__(self, lengths: Tensor, item: Callable[[int], Example]) -> None:
        self.order = torch.argsort(lengths, stable=True).tolist()
        self.item = item

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        return self.item(self.order[index])
