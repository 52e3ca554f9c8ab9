"""A split whose pairs are looked up in the prefix cache, as far as they are kept in it."""

import multiprocessing
from typing import NamedTuple

from torch import Tensor
from transformers import TrainingArguments

from recipe.batches.tokens import Example, SortedPairs, Tokens, describe_cut
from recipe.cache.prefix_cache import PrefixCache
from recipe.data.splits import Split, iterate_batches
from recipe.process.progress import say


def describe_first_cut(split: Split) -> list[str]:
    """How many of the first pairs of a split, which is read as it is trained on, were cut."""
    cut = next(iterate_batches(split.examples), {"cut": []})["cut"]
    return describe_cut(split.source, sum(cut), len(cut), "the first " * (len(cut) < split.rows))


class CachedSplit(NamedTuple):
    """A split whose first pairs are looked up in a prefix cache, and the others, where it has more, in its tokens."""

    cache: PrefixCache
    tokens: Tokens
    lengths: Tensor  # int32, (pairs,)

    @property
    def kept(self) -> int:
        """How many pairs are in the cache."""
        return self.cache.manifest["pairs"]

    @property
    def whole(self) -> bool:
        """Whether that is all of them."""
        return self.kept == len(self.lengths)

    def example(self, index: int) -> Example:
        """One pair, for `collate` to gather."""
        if index >= self.kept:
            return self.tokens.example(index)
        return {"cache": self.cache, "index": index, "labels": int(self.tokens.labels[index])}

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


def refuse_spawned_workers(args: TrainingArguments) -> None:
    """Read a cache without workers where they would be spawned, as on macOS: no mapped tensor can be sent there."""
    if args.dataloader_num_workers and multiprocessing.get_start_method() != "fork":
        say(
            args,
            f"note: --dataloader_num_workers {args.dataloader_num_workers}: none are needed to read the cache here",
        )
        args.dataloader_num_workers, args.dataloader_persistent_workers = 0, False
        args.dataloader_prefetch_factor = None
