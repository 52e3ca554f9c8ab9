"""Tokenised pairs end to end in a few arrays, the data set of evaluation, and the collators."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
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

    @property
    def lengths(self) -> Tensor:
        """Tokens of each pair."""
        return self.offsets.diff()

    def sha256(self) -> str:
        """Of everything but the labels."""
        digest = hashlib.sha256()
        for part in (self.input_ids, self.token_type_ids, self.offsets):
            digest.update(part.numpy().data)
        return digest.hexdigest()

    def example(self, index: int) -> Example:
        """One pair as `tokenize` gives it."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        ids, types = self.input_ids[span].tolist(), self.token_type_ids[span].tolist()
        return {"input_ids": ids, "token_type_ids": types, "labels": int(self.labels[index])}


def read_tokens(batches: Iterator[dict[str, list[Any]]], most: float = float("inf")) -> Tokens | None:
    """The tokens of batches of examples; None as soon as there are more than `most`."""
    ids, types, lengths, labels = [], [], [], []
    count = 0
    for batch in batches:
        ids.append(np.concatenate([np.asarray(row, dtype=np.int32) for row in batch["input_ids"]]))
        types.append(np.concatenate([np.asarray(row, dtype=np.uint8) for row in batch["token_type_ids"]]))
        lengths += [len(row) for row in batch["input_ids"]]
        labels += batch["labels"]
        count += len(ids[-1])
        if count > most:
            return None
    if not ids:
        ids, types = [np.zeros(0, np.int32)], [np.zeros(0, np.uint8)]
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))
    arrays = torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(types))
    return Tokens(*arrays, offsets, torch.tensor(labels, dtype=torch.int64))


class SortedPairs(Dataset):
    """Evaluation's examples, shortest first; the i-th stood at `order[i]` in its split."""

    def __init__(self, lengths: Tensor, item: Callable[[int], Example]) -> None:
        self.order = torch.argsort(lengths, stable=True).tolist()
        self.item = item

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        return self.item(self.order[index])


def collate(examples: Sequence[Example] | None, pad_token_id: int) -> dict[str, Tensor]:
    """A batch with labels (batch,): padded tokens, or the states of examples that are looked up in a prefix cache.

    Empty for the None that stands for a batch which a resume passes by.
    """
    if examples is None:
        return {}
    batch = _collate_states(examples) if "cache" in examples[0] else _collate_tokens(examples, pad_token_id)
    batch["labels"] = torch.tensor([example["labels"] for example in examples])
    return batch


def _collate_tokens(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """input_ids, token_type_ids and attention_mask, (batch, longest)."""
    longest = max(len(example["input_ids"]) for example in examples)
    batch = {
        name: torch.tensor([example[name] + [fill] * (longest - len(example[name])) for example in examples])
        for name, fill in [("input_ids", pad_token_id), ("token_type_ids", 0)]
    }
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch


def _collate_states(examples: Sequence[Example]) -> dict[str, Tensor]:
    """prefix_states (batch, longest, hidden) and, where something is padded, attention_mask (batch, longest)."""
    states, mask = examples[0]["cache"].gather([example["index"] for example in examples])
    return {"prefix_states": states} if mask is None else {"prefix_states": states, "attention_mask": mask}
