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


def collate(examples: Sequence[Example] | None, pad_token_id: int) -> dict[str, Tensor]:
    """A batch with labels (batch,): padded tokens, or the states of examples that are looked up in a prefix cache.

    Where some pairs have states and others do not, both: `computed` (some,) says which places the tokens are for.
    Empty for the None that stands for a batch which a resume passes by.
    """
    if examples is None:
        return {}
    kept = [place for place, example in enumerate(examples) if "cache" in example]
    if not kept:
        batch = _collate_tokens(examples, pad_token_id)
    elif len(kept) == len(examples):
        batch = _collate_states(examples)
    else:
        batch = _collate_both(examples, kept, pad_token_id)
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


def _collate_both(examples: Sequence[Example], kept: list[int], pad_token_id: int) -> dict[str, Tensor]:
    """prefix_states and attention_mask of all places, and the tokens of those whose states are yet to be computed."""
    rest = [place for place in range(len(examples)) if place not in kept]
    tokens = _collate_tokens([examples[place] for place in rest], pad_token_id)
    found, mask_of_found = examples[kept[0]]["cache"].gather([examples[place]["index"] for place in kept])
    longest = max(found.shape[1], tokens["input_ids"].shape[1])
    states = found.new_zeros(len(examples), longest, found.shape[2])
    mask = torch.zeros(len(examples), longest, dtype=torch.long)
    states[kept, : found.shape[1]] = found
    mask[kept, : found.shape[1]] = 1 if mask_of_found is None else mask_of_found
    mask[rest, : tokens["input_ids"].shape[1]] = tokens.pop("attention_mask")
    return {"prefix_states": states, "attention_mask": mask, "computed": torch.tensor(rest), **tokens}
