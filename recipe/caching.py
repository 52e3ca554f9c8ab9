"""Whether a run trains from the prefix cache, and the cached splits that it then reads instead of tokens."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from recipe.arguments import FreezeTrainingArguments, RecipeArguments
from recipe.cache_key import CacheKey, make_key
from recipe.data import Examples, iterate_batches
from recipe.encoding import encode, faster_dtype
from recipe.errors import RunError, UserError
from recipe.modeling import BertForPairwiseCLS
from recipe.prefix_cache import PrefixCache, open_cache, size_in_bytes
from recipe.progress import say
from recipe.tokens import Example, SortedPairs, Tokens, read_tokens

GIGABYTE = 1e9
T = TypeVar("T")


class CachedSplit(NamedTuple):
    """A split whose pairs are looked up in a prefix cache."""

    cache: PrefixCache
    lengths: Tensor
    labels: Tensor

    def example(self, index: int) -> Example:
        """One pair, for `collate` to gather."""
        return {"cache": self.cache, "index": index, "labels": int(self.labels[index])}

    def take(self, indices: list[int]) -> list[Example]:
        """Some pairs."""
        return [self.example(index) for index in indices]

    def skip(self, indices: list[int]) -> None:
        """Nothing to pass by in a map."""

    def sorted_pairs(self) -> SortedPairs:
        """All pairs, for evaluation."""
        return SortedPairs(self.lengths, self.example)


def cache_prefix(
    model: BertForPairwiseCLS,
    splits: Sequence[tuple[str, int, Examples]],
    arguments: RecipeArguments,
    before: str | None = None,
) -> list[CachedSplit] | None:
    """The splits' prefix caches, found or made; None where the run is to train without, which is said with the reason.

    Args:
        splits: source, number of pairs and tokenised examples of each split.
        before: `describe_prefix` of the run that this one goes on from.

    Raises:
        UserError: --prefix_cache on, and it cannot be.
        RunError: the disk became full meanwhile.
    """
    args = arguments.training
    reason = _why_not(model, arguments, before)
    tokens: list[Tokens] = []
    if reason is None:
        tokens, reason = _read(model, splits, arguments)
    if reason is None:
        keys = _keys(model, tokens, arguments, before)
        reason = _no_room(tokens, keys, arguments)
    reason = from_first_rank(args, lambda: reason)
    if reason is not None:
        if arguments.cache.prefix_cache == "on":
            raise UserError(f"--prefix_cache on: {reason}")
        say(args, f"prefix cache: off, {reason}")
        return None
    directory = Path(arguments.cache.prefix_cache_dir)
    cached = []
    for (source, _, _), held, key in zip(splits, tokens, keys, strict=True):
        cache = _open_or_encode(model, held, key, directory, source, args)
        cached.append(CachedSplit(cache, held.lengths, held.labels))
    return cached


def _why_not(model: BertForPairwiseCLS, arguments: RecipeArguments, before: str | None) -> str | None:
    if arguments.cache.prefix_cache == "off":
        return "as --prefix_cache says"
    if model.prefix_depth is None:
        return "there is no frozen prefix: the embeddings are trained"
    if model.prefix_depth == 0:
        return "there is no frozen prefix: layer 0 is trained"
    if model.frozen_dropout:
        return "--frozen_dropout makes the prefix's outputs differ from pass to pass"
    if arguments.cache.prefix_cache == "auto" and before == "off":
        return "as it was before the run was stopped"
    if arguments.cache.prefix_cache == "auto" and before is None and arguments.training.num_train_epochs <= 1:
        return "a single epoch would read each output once"
    return None


def _read(
    model: BertForPairwiseCLS, splits: Sequence[tuple[str, int, Examples]], arguments: RecipeArguments
) -> tuple[list[Tokens], str | None]:
    """The tokens of all splits, read only as far as the cache of them could be kept."""
    whole = model.prefix_depth == model.config.num_hidden_layers
    each = model.config.hidden_size * getattr(torch, arguments.cache.prefix_cache_dtype).itemsize
    most = float("inf") if whole else arguments.cache.prefix_cache_max_gb * GIGABYTE / each
    read: list[Tokens] = []
    for _, _, examples in splits:
        tokens = read_tokens(iterate_batches(examples), most - sum(int(held.offsets[-1]) for held in read))
        if tokens is None:
            return [], f"it would take more than --prefix_cache_max_gb {arguments.cache.prefix_cache_max_gb:g}"
        read.append(tokens)
    return read, None


def _keys(
    model: BertForPairwiseCLS, tokens: list[Tokens], arguments: RecipeArguments, before: str | None
) -> list[CacheKey]:
    """The splits' keys; where the computing type is free, that of a cache already there, else the faster one."""
    cache, args = arguments.cache, arguments.training
    choices = [cache.prefix_compute_dtype]
    if choices == ["auto"] and before is not None:
        choices = [name for name in ("bfloat16", "float32") if before.endswith(f"computed in {name}")] or choices
    if choices == ["auto"]:
        choices = ["float32"] if cache.prefix_cache_dtype == "float32" else ["bfloat16", "float32"]
    hashed = [make_key(model, held, cache.prefix_cache_dtype, choices[0]) for held in tokens]
    for choice in choices:
        keys = [key._replace(compute_dtype=choice) for key in hashed]
        if len(choices) == 1 or open_cache(Path(cache.prefix_cache_dir), keys[0], tokens[0]):
            return keys
    faster = from_first_rank(args, lambda: faster_dtype(model, args.device))
    return [key._replace(compute_dtype=faster) for key in keys]


def _no_room(tokens: list[Tokens], keys: list[CacheKey], arguments: RecipeArguments) -> str | None:
    directory = Path(arguments.cache.prefix_cache_dir)
    sizes = {key.name: size_in_bytes(held, key) for held, key in zip(tokens, keys, strict=True)}
    missing = sum(
        sizes[key.name] for held, key in zip(tokens, keys, strict=True) if not open_cache(directory, key, held)
    )
    limit = arguments.cache.prefix_cache_max_gb
    if sum(sizes.values()) > limit * GIGABYTE:
        return f"it would take {sum(sizes.values()) / GIGABYTE:.2f} GB, and --prefix_cache_max_gb is {limit:g}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return f"--prefix_cache_dir {directory}: {error.strerror}"
    if missing > free:
        return f"it would take {missing / GIGABYTE:.2f} GB, and {directory} has {free / GIGABYTE:.2f} GB free"
    return None


def _open_or_encode(
    model: BertForPairwiseCLS,
    tokens: Tokens,
    key: CacheKey,
    directory: Path,
    source: str,
    args: FreezeTrainingArguments,
) -> PrefixCache:
    cache = open_cache(directory, key, tokens)
    if any(_from_all_ranks(args, cache is None)) or cache is None:
        try:
            return encode(model, tokens, key, directory, source, args)
        except OSError as error:  # the room that was there before has gone to something else
            raise RunError(
                f"--prefix_cache_dir {directory}: {error.strerror or error}; --prefix_cache off trains without"
            ) from error
    size, saved = cache.manifest["bytes"] / GIGABYTE, cache.manifest["seconds"]
    say(args, f"prefix cache: {source} found, {size:.2f} GB; it saves {saved:.0f} s of encoding")
    return cache


def from_first_rank(args: FreezeTrainingArguments, find: Callable[[], T]) -> T:
    """What `find` gives on rank 0, on all ranks: what depends on a clock or a disk may come out differently there."""
    return _from_all_ranks(args, find() if args.process_index == 0 else None)[0]


def describe_prefix(cached: list[CachedSplit] | None) -> str:
    """How the frozen prefix comes to the tail."""
    if cached is None:
        return "off"
    manifest = cached[0].cache.manifest
    return f"in {manifest['dtype']}, computed in {manifest['compute_dtype']}"


def _from_all_ranks(args: FreezeTrainingArguments, value: Any) -> list[Any]:
    if args.world_size == 1:
        return [value]
    values = [None] * args.world_size
    torch.distributed.all_gather_object(values, value)
    return values
