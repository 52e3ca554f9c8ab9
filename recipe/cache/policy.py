"""Whether a run trains from the prefix cache, how much of its data, and the caches found or made."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from recipe.arguments import FreezeTrainingArguments, RecipeArguments
from recipe.batches.token_store import store_tokens
from recipe.batches.tokens import Tokens
from recipe.cache.cached_split import CachedSplit, refuse_spawned_workers
from recipe.cache.encoding import Encoding, encode, fast_dtype
from recipe.cache.key import CacheKey, arithmetic_of, make_key
from recipe.cache.prefix_cache import PrefixCache, is_intact, open_cache, size_in_bytes, what_is_in_the_way
from recipe.cache.prefix_state import NO_CACHE, PrefixState
from recipe.data.splits import Split
from recipe.errors import RunError, UserError
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import say
from recipe.system.cache_folder import STATES, remove_cache
from recipe.system.distributed import Share, first_on_machine, from_all_ranks, from_first_rank

GIGABYTE = 1e9


def cache_prefix(
    model: BertForPairwiseCLS,
    splits: Sequence[Split],
    arguments: RecipeArguments,
    before: PrefixState | None = None,
) -> list[CachedSplit] | None:
    """The splits' prefix caches, found or made; None where the run is to train without, which is said with the reason.

    Args:
        before: of the run that this one goes on from.

    Raises:
        UserError: --prefix_cache on, and it cannot be.
        RunError: the disk became full meanwhile.
    """
    args, directory = arguments.training, Path(arguments.cache.prefix_cache_dir)
    reason = _why_not(model, arguments, before, splits[0].rows)
    tokens: list[Tokens] = []
    if reason is None:
        try:
            tokens = [_read(split, directory, args) for split in splits]
            heads = _what_fits(model, tokens, arguments)
            keys = _choose_keys(model, heads, arguments, before)
            reason = _why_not_these(tokens, heads, keys, arguments)
        except OSError as error:  # the same on all ranks
            reason = f"--prefix_cache_dir {directory}: {error.strerror or error}"
    if reason is not None:
        if arguments.cache.prefix_cache == "on":
            raise UserError(f"--prefix_cache on: {reason}")
        say(args, f"prefix cache: off, {reason}")
        return None
    cached = []
    for split, held, head, key in zip(splits, tokens, heads, keys, strict=True):
        cached.append(CachedSplit(_open_or_encode(model, head, key, split.source, arguments), held, held.lengths.int()))
    refuse_spawned_workers(args)
    return cached


def _why_not(
    model: BertForPairwiseCLS, arguments: RecipeArguments, before: PrefixState | None, rows: int
) -> str | None:
    if arguments.cache.prefix_cache == "off":
        return "as --prefix_cache says"
    if model.prefix_depth is None:
        return "there is no frozen prefix: the embeddings are trained"
    if model.prefix_depth == 0:
        return "there is no frozen prefix: layer 0 is trained"
    if model.frozen_dropout:
        return "--frozen_dropout makes the prefix's outputs differ from pass to pass"
    if arguments.cache.prefix_cache == "auto" and before == NO_CACHE:
        return "as it was before the run was stopped"
    if arguments.cache.prefix_cache == "auto" and before is None and arguments.training.passes(rows) <= 1:
        steps, passes = arguments.training.max_steps, arguments.training.passes(rows)
        if steps > 0:
            return f"--max_steps {steps} of {steps / passes:,.0f} an epoch read each output at most once"
        return "a single epoch would read each output once"
    return None


def _read(split: Split, directory: Path, args: FreezeTrainingArguments) -> Tokens:
    tokens = store_tokens(split.examples, split.shards, directory, args)
    if len(tokens.labels) != split.rows:
        raise UserError(
            f"{split.source}: {len(tokens.labels):,} rows, where its metadata or an earlier pass said {split.rows:,}"
        )
    for line in tokens.describe_cut(split.source):
        say(args, line)
    return tokens


def _what_fits(model: BertForPairwiseCLS, tokens: list[Tokens], arguments: RecipeArguments) -> list[Tokens]:
    """The first pairs of each split, as many as --prefix_cache_max_gb has room for.

    The last split, which every evaluation reads whole, comes first.
    """
    each = model.config.hidden_size * getattr(torch, arguments.cache.prefix_cache_dtype).itemsize
    whole = model.prefix_depth == model.config.num_hidden_layers
    room = int(arguments.cache.prefix_cache_max_gb * GIGABYTE) // each
    heads: list[Tokens] = []
    for held in reversed(tokens):
        ends = torch.arange(len(held.labels) + 1) if whole else held.offsets
        count = int((ends <= room).sum()) - 1
        room -= int(ends[count])
        heads.insert(0, held.head(count))
    return heads


def _choose_keys(
    model: BertForPairwiseCLS, heads: list[Tokens], arguments: RecipeArguments, before: PrefixState | None
) -> list[CacheKey]:
    """Their keys, a function of the command and the processor alone: never of what lies in the cache."""
    cache, args = arguments.cache, arguments.training
    dtype = cache.prefix_compute_dtype
    if dtype == "auto" and cache.prefix_cache_dtype == "float32":
        dtype = "float32"
    if dtype == "auto":
        kept = before.compute_dtype if before is not None else None
        dtype = from_first_rank(args, lambda: kept or fast_dtype(args.device))
    first = make_key(model, heads[0], cache.prefix_cache_dtype, dtype, arithmetic_of(args))
    return [first, *(first._replace(tokens=head.sha256()) for head in heads[1:])]


def _why_not_these(
    tokens: list[Tokens], heads: list[Tokens], keys: list[CacheKey], arguments: RecipeArguments
) -> str | None:
    """The reason why there is no keeping `heads`, the same on all ranks."""
    args = arguments.training
    kept, pairs = (sum(len(each.labels) for each in group) for group in (heads, tokens))
    # one machine's disk may be smaller than another's
    reason = next(filter(None, from_all_ranks(args, _no_room(heads, keys, arguments))), None)
    if reason is None and kept < pairs:
        limit = f"--prefix_cache_max_gb {arguments.cache.prefix_cache_max_gb:g}"
        say(args, f"prefix cache: {limit} keeps {kept:,} of {pairs:,} pairs; the others are computed in each epoch")
    return reason


def _no_room(heads: list[Tokens], keys: list[CacheKey], arguments: RecipeArguments) -> str | None:
    directory, limit = Path(arguments.cache.prefix_cache_dir), arguments.cache.prefix_cache_max_gb
    if not len(heads[0].labels):
        return f"--prefix_cache_max_gb {limit:g} has no room for a single pair of the training split"
    missing = [(head, key) for head, key in zip(heads, keys, strict=True) if not open_cache(directory, key, head)]
    size = sum(size_in_bytes(head, key) for head, key in missing)
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return f"--prefix_cache_dir {directory}: {error.strerror}"
    if size > free:
        return f"it would take {size / GIGABYTE:.2f} GB, and {directory} has {free / GIGABYTE:.2f} GB free"
    return next(filter(None, (what_is_in_the_way(directory, key) for _, key in missing)), None)


def _open_or_encode(
    model: BertForPairwiseCLS, tokens: Tokens, key: CacheKey, source: str, arguments: RecipeArguments
) -> PrefixCache:
    """The cache of `key`; a machine that has it waits for those that do not. Collective."""
    args, directory = arguments.training, Path(arguments.cache.prefix_cache_dir)
    cache = open_cache(directory, key, tokens)
    if cache is not None and args.local_process_index == 0 and not is_intact(directory, key, cache):
        say(args, f"prefix cache: {directory / key.name}: {STATES} is not what was written; it is made again")
        remove_cache(directory / key.name, although_read=True)
        cache = None
    found = from_all_ranks(args, cache is not None)
    if not all(found):
        try:
            here = found[first_on_machine(args)]
            cache = encode(Encoding(model, tokens, key, directory, source), args, None if here else Share.of(args))
        except OSError as error:  # the room that was there before has gone to something else
            raise RunError(
                f"--prefix_cache_dir {directory}: {error.strerror or error}; to train without one: --prefix_cache off"
            ) from error
        return cache
    assert cache is not None
    size, saved = cache.manifest["bytes"] / GIGABYTE, cache.manifest["seconds"]
    say(args, f"prefix cache: {source} found, {size:.2f} GB; it saves {saved:.0f} s of encoding")
    return cache
