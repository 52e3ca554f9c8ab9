"""A split whose pairs are looked up in the prefix cache, and how its states come to the tail."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recipe.batches.tokens import Example, SortedPairs, Tokens, describe_cut
from recipe.cache.key import CacheKey
from recipe.data.splits import Split, iterate_batches
from recipe.errors import Damaged

STATE_SHAPE = {"dtype": (str, None), "compute_dtype": (str, None), "kept": int, "pairs": int, "compiled": bool}
SENTENCE = re.compile(r"in (\w+), computed in (\w+)(?:, ([\d,]+) of ([\d,]+) pairs)?(, tail compiled)?")


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """The states of the first pairs of a split, wherever a store has them.

    Attributes:
        states: (rows, hidden), memory-mapped, or on a GPU.
        starts: (pairs,); the first row of each pair.
        lengths: (pairs,); how many rows it has: one a token, or [CLS] alone where the last layer is in the prefix.
        pad_to_multiple_of: batches are padded to a multiple of so many tokens, so that few shapes occur.
        held: what keeps other processes from removing the store meanwhile.
    """

    states: Tensor
    starts: Tensor
    lengths: Tensor
    pad_to_multiple_of: int = 1
    held: Any = None

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def size_in_bytes(self) -> int:
        """Of the pairs' states alone; the store may have others'."""
        return int(self.lengths.sum()) * self.states[0].nbytes if len(self) else 0

    def to(self, device: torch.device, pad_to_multiple_of: int) -> "PrefixCache":
        """The same with its states in `device`'s memory, where `gather` needs no copy from the host."""
        ends = self.lengths.cumsum(0)
        places = torch.arange(int(ends[-1])) - torch.repeat_interleave(ends - self.lengths - self.starts, self.lengths)
        return PrefixCache(self.states[places].to(device), ends - self.lengths, self.lengths, pad_to_multiple_of)

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """The states of some pairs, (batch, longest, hidden), and their mask (batch, longest), None without padding.

        One indexed copy; padding repeats a pair's last row, which the mask hides. Padded to a multiple, all batches
        have a mask, so that they are of one kind.
        """
        wanted = torch.as_tensor(indices)
        starts, lengths = self.starts[wanted], self.lengths[wanted]
        longest = -(-int(lengths.max()) // self.pad_to_multiple_of) * self.pad_to_multiple_of
        place = torch.arange(longest)
        rows = starts[:, None] + torch.minimum(place, lengths[:, None] - 1)
        states = self.states.index_select(0, rows.view(-1).to(self.states.device)).view(*rows.shape, -1)
        whole = self.pad_to_multiple_of == 1 and bool((lengths == longest).all())
        return states, None if whole else (place < lengths[:, None]).long()


def describe_first_cut(split: Split) -> list[str]:
    """How many of the first rows of a split, which is read as it is trained on, were cut."""
    cut = next(iterate_batches(split.examples), {"cut": []})["cut"]
    return describe_cut(split.source, split.unit, sum(cut), len(cut), "the first " * (len(cut) < split.rows))


class CachedSplit(NamedTuple):
    """A split whose first pairs are looked up in a prefix cache, and the others, where it has more, in its tokens."""

    cache: PrefixCache
    tokens: Tokens
    lengths: Tensor  # int32, (pairs,)
    key: CacheKey

    @property
    def kept(self) -> int:
        """How many pairs are in the cache."""
        return len(self.cache)

    @property
    def whole(self) -> bool:
        """Whether that is all of them."""
        return self.kept == len(self.lengths)

    def example(self, index: int) -> Example:
        """One pair, for `collate` to gather."""
        if index >= self.kept:
            return self.tokens.example(index)
        return {"cache": self.cache, "index": index, "labels": self.tokens.labels[index].item()}

    def length(self, example: Example) -> int:
        """Tokens of a pair that `example` gave."""
        return int(self.lengths[example["index"]]) if "cache" in example else len(example["input_ids"])

    def take(self, indices: list[int]) -> list[Example]:
        """Some pairs."""
        return [self.example(index) for index in indices]

    def skip(self, indices: list[int]) -> None:
        """Nothing to pass by in a map."""

    def sorted_pairs(self) -> SortedPairs:
        """All pairs, for evaluation."""
        return SortedPairs(self.lengths, self.example)


class PrefixState(NamedTuple):
    """Of a run that trains from the prefix cache; `NO_CACHE` of one that computes the prefix in every step.

    Attributes:
        dtype: how states are stored, None without a cache.
        compute_dtype: how they were computed.
        kept: pairs whose states are in the cache; 0 where all `pairs` are.
        compiled: whether the tail runs compiled, in which dropout draws other numbers.
    """

    dtype: str | None = None
    compute_dtype: str | None = None
    kept: int = 0
    pairs: int = 0
    compiled: bool = False

    def __str__(self) -> str:
        """In words, behind 'prefix cache'."""
        if self.dtype is None:
            return "off"
        some = f", {self.kept:,} of {self.pairs:,} pairs" if self.kept else ""
        return f"in {self.dtype}, computed in {self.compute_dtype}{some}{', tail compiled' * self.compiled}"


NO_CACHE = PrefixState()


def prefix_state(cached: Sequence[CachedSplit] | None, compiled: bool) -> PrefixState:
    """Of a run over these splits; None where none of them is cached."""
    if not cached:
        return NO_CACHE
    kept, pairs = sum(each.kept for each in cached), sum(len(each.lengths) for each in cached)
    some = (kept, pairs) if kept < pairs else (0, 0)
    return PrefixState(cached[0].key.dtype, cached[0].key.compute_dtype, *some, compiled)


def recorded_state(said: Any) -> PrefixState:
    """The state that a manifest records: an object, or a sentence in those of earlier releases.

    Raises:
        Damaged: it is neither.
    """
    if isinstance(said, dict):
        return PrefixState(**{name: said[name] for name in STATE_SHAPE})
    match = SENTENCE.fullmatch(said)
    if match is None and said != "off":
        raise Damaged(f"prefix is {said!r:.60}; an object is expected")
    if match is None:
        return NO_CACHE
    kept, pairs = (int((number or "0").replace(",", "")) for number in match.group(3, 4))
    return PrefixState(match[1], match[2], kept, pairs, bool(match[5]))
