"""Whether a run trains from the prefix cache, and how much of its data."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from recipe.arguments import FreezeTrainingArguments, RecipeArguments
from recipe.batches.token_store import store_tokens
from recipe.batches.tokens import Tokens
from recipe.cache.cached_split import NO_CACHE, CachedSplit, PrefixState
from recipe.cache.encoding import Encoding
from recipe.cache.finding import GIGABYTE, find_or_encode, missing_pairs
from recipe.cache.key import CacheKey, arithmetic_of, make_key, pair_hashes
from recipe.cache.store import open_store
from recipe.data.splits import Split
from recipe.errors import UserError
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import say
from recipe.system.arithmetic import multiplies_in_bfloat16
from recipe.system.cache_folder import make_room, what_is_in_the_way
from recipe.system.distributed import from_all_ranks, from_first_rank


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
    reason = why_not(model, arguments, before, splits[0].rows)
    jobs: list[Encoding] = []
    if reason is None:
        try:
            tokens = [_read(split, directory, args) for split in splits]
            heads = what_fits(model, tokens, arguments)
            key = choose_key(model, arguments, before)
            jobs = [
                Encoding(model, head, pair_hashes(head), key, directory, split.source)
                for split, head in zip(splits, heads, strict=True)
            ]
            reason = _why_not_these(jobs, tokens, arguments)
        except OSError as error:  # the same on all ranks
            reason = f"--prefix_cache_dir {directory}: {error.strerror or error}"
    check_wanted(arguments, reason)
    if reason is not None:
        say(args, f"prefix cache: off, {reason}")
        return None
    caches = find_or_encode(jobs, args)
    return [CachedSplit(cache, held, held.lengths.int(), key) for cache, held in zip(caches, tokens, strict=True)]


def check_wanted(arguments: RecipeArguments, reason: str | None) -> None:
    """Check that a cache that cannot be, for that reason, is not insisted on.

    Raises:
        UserError: --prefix_cache on, and there is a reason.
    """
    if reason is not None and arguments.cache.prefix_cache == "on":
        raise UserError(f"--prefix_cache on: {reason}")


def why_not(model: BertForPairwiseCLS, arguments: RecipeArguments, before: PrefixState | None, rows: int) -> str | None:
    """Why the command asks for no cache; None where it does.

    Args:
        before: of the run that this one goes on from.
        rows: pairs in the training split.
    """
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
    steps, passes = arguments.training.max_steps, arguments.training.passes(rows)
    if arguments.cache.prefix_cache == "auto" and before is None and passes <= 1:
        if steps > 0:
            return f"--max_steps {steps} of {steps / passes:,.0f} an epoch read each output at most once"
        return "a single epoch would read each output once"
    return None


def _read(split: Split, directory: Path, args: FreezeTrainingArguments) -> Tokens:
    tokens = store_tokens(split.examples, split.shards, directory, args, split.regression)
    if len(tokens.labels) != split.rows:
        raise UserError(
            f"{split.source}: {len(tokens.labels):,} rows, where its metadata or an earlier pass said {split.rows:,}"
        )
    for line in tokens.describe_cut(split):
        say(args, line)
    return tokens


def what_fits(model: BertForPairwiseCLS, tokens: list[Tokens], arguments: RecipeArguments) -> list[Tokens]:
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


def why_nothing_fits(head: Tokens, arguments: RecipeArguments) -> str | None:
    """Why there is no cache, where `what_fits` keeps nothing of the training split."""
    if len(head.labels):
        return None
    limit = arguments.cache.prefix_cache_max_gb
    return f"--prefix_cache_max_gb {limit:g} has no room for a single pair of the training split"


def choose_key(model: BertForPairwiseCLS, arguments: RecipeArguments, before: PrefixState | None) -> CacheKey:
    """A function of the command and the processor alone: never of what lies in the cache."""
    cache, args = arguments.cache, arguments.training
    dtype = cache.prefix_compute_dtype
    if dtype == "auto" and cache.prefix_cache_dtype == "float32":
        dtype = "float32"
    if dtype == "auto":
        kept = before.compute_dtype if before is not None else None
        fast = "bfloat16" if multiplies_in_bfloat16(args.device.type) else "float32"
        dtype = from_first_rank(args, lambda: kept or fast)
    return make_key(model, cache.prefix_cache_dtype, dtype, args.device, arithmetic_of(args))


def _why_not_these(jobs: list[Encoding], tokens: list[Tokens], arguments: RecipeArguments) -> str | None:
    """Why the states of `jobs` cannot be kept, the same on all ranks; None where they can."""
    args = arguments.training
    # one machine's disk may be smaller than another's
    reason = next(filter(None, from_all_ranks(args, _no_room(jobs, arguments))), None)
    kept = describe_kept([job.tokens for job in jobs], tokens, arguments)
    if reason is None and kept is not None:
        say(args, f"prefix cache: {kept}")
    return reason


def describe_kept(heads: Sequence[Tokens], tokens: Sequence[Tokens], arguments: RecipeArguments) -> str | None:
    """How many of the splits' pairs `what_fits` keeps; None where it keeps all of them."""
    kept, pairs = (sum(len(each.labels) for each in some) for some in (heads, tokens))
    limit = f"--prefix_cache_max_gb {arguments.cache.prefix_cache_max_gb:g}"
    return f"{limit} keeps {kept:,} of {pairs:,} pairs; the others are computed in each epoch" if kept < pairs else None


def _no_room(jobs: list[Encoding], arguments: RecipeArguments) -> str | None:
    """Why this machine's disk has no room for what is missing, when other stores are removed as the limit asks."""
    key, directory, limit = jobs[0].key, jobs[0].directory, arguments.cache.prefix_cache_max_gb
    reason = why_nothing_fits(jobs[0].tokens, arguments) or what_is_in_the_way(directory, key.name)
    if reason is not None:
        return reason
    store = open_store(directory, key)
    size = sum(int(job.rows[missing_pairs(store, job)].sum()) for job in jobs) * key.row_bytes
    try:
        if arguments.training.local_process_index == 0:
            for folder, freed in make_room(directory, key.name, size, int(limit * GIGABYTE)):
                kept = f"all within --prefix_cache_max_gb {limit:g}"
                say(arguments.training, f"prefix cache: {folder} removed, {freed / GIGABYTE:.2f} GB, to keep {kept}")
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return f"--prefix_cache_dir {directory}: {error.strerror}"
    if size > free:
        return f"it would take {size / GIGABYTE:.2f} GB, and {directory} has {free / GIGABYTE:.2f} GB free"
    return None
