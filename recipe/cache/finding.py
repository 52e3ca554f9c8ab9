"""The states of a run's pairs: looked up in the store, and what is missing there encoded by the machine's ranks."""

import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor
from transformers import TrainingArguments

from recipe.cache.appending import remove_partial
from recipe.cache.cached_split import PrefixCache
from recipe.cache.encoding import Encoding, encode
from recipe.cache.store import ENCODING, Store, intact, open_store
from recipe.errors import RunError
from recipe.process.progress import say
from recipe.system.distributed import Share, first_on_machine, from_all_ranks, together
from recipe.system.locks import lock, wait_for

GIGABYTE = 1e9


def find_or_encode(jobs: Sequence[Encoding], args: TrainingArguments) -> list[PrefixCache]:
    """The states of each job's pairs, all of them in one store. Collective.

    One run at a time encodes into a store; another waits, and then finds what the first has left there.

    Raises:
        RunError: the disk became full meanwhile, or a state is not finite.
    """
    try:
        return _find_or_encode(jobs, args)
    except OSError as error:  # the room that was there before has gone to something else
        raise RunError(
            f"--prefix_cache_dir {jobs[0].directory}: {error.strerror or error}; to train without one: "
            "--prefix_cache off"
        ) from error


def _find_or_encode(jobs: Sequence[Encoding], args: TrainingArguments) -> list[PrefixCache]:
    store = _open(jobs[0], args)
    share, here = Share.of(args), first_on_machine(args)
    lacks = from_all_ranks(args, any(len(missing_pairs(store, job)) for job in jobs))
    lacking = any(lacks[here : here + share.ranks])
    with ExitStack() as stack:
        together(args, lambda: _begin(jobs[0], args, stack) if lacking and share.rank == 0 else None, OSError)
        for job in jobs:
            store = _open(job, args, store) if lacking else store
            missing, started = missing_pairs(store, job), time.perf_counter()
            together(args, lambda: encode(job, missing, args, share) if lacking else None, OSError, RunError)  # noqa: B023
            _tell(job, missing, store, time.perf_counter() - started, args)
        whole = _open(jobs[-1], args, store) if lacking else store
        return together(args, lambda: [_look_up(whole, job) for job in jobs], OSError)


def _begin(job: Encoding, args: TrainingArguments, stack: ExitStack) -> None:
    """Make the store if need be, and hold it for this run's encoding until `stack` is left.

    Raises:
        OSError: it cannot be made.
    """
    store = open_store(job.directory, job.key, job.source, create=True)
    if store is None:
        raise OSError(f"{job.directory / job.key.name} cannot be opened")
    path = store.folder / ENCODING
    try:
        held = lock(path)
    except BlockingIOError:
        say(args, f"prefix cache: another run encodes into {store.folder}; this one waits for it")
        held = wait_for(path)
    stack.callback(held.release)
    remove_partial(store.folder)


def _open(job: Encoding, args: TrainingArguments, before: Store | None = None) -> Store | None:
    """The store as it is now, every block of it checked; those of `before` have been."""
    store = open_store(job.directory, job.key)
    if store is None:
        return None
    trusted: Collection[int] = {block.first for block in before.blocks} if before else ()
    good = intact(store, trusted)
    kept = {block.first for block in good.blocks}
    damaged = [block.hashes for block in store.blocks if block.first not in kept]
    lost = int((good.find(np.concatenate(damaged)) < 0).sum()) if damaged else 0  # the others have been encoded again
    if lost and before is None:
        say(args, f"prefix cache: {store.folder}: {lost:,} pairs are not what was written; they are encoded again")
    return good


def missing_pairs(store: Store | None, job: Encoding) -> Tensor:
    """Indices of the pairs that a store has not, each once."""
    starts = torch.full((len(job.hashes),), -1) if store is None else store.find(job.hashes)
    places = torch.nonzero(starts < 0).view(-1)
    _, first = np.unique(job.hashes[places.numpy()], return_index=True)
    return places[torch.from_numpy(np.sort(first))]


def _look_up(store: Store | None, job: Encoding) -> PrefixCache:
    starts = None if store is None else store.find(job.hashes)
    if store is None or store.states is None or starts is None or not bool((starts >= 0).all()):
        raise OSError(f"{job.directory / job.key.name} is gone right after it was written")
    return PrefixCache(store.states, starts, job.rows, held=store.held)


def _tell(job: Encoding, missing: Tensor, store: Store | None, seconds: float, args: TrainingArguments) -> None:
    """What was found, and what it cost to compute the rest."""
    pairs, tokens = len(job.hashes), int(job.tokens.lengths[missing].sum())
    if not len(missing):
        rows = int(job.rows.sum())
        saved = store.seconds_per_row * rows if store else 0.0
        size = rows * job.key.row_bytes / GIGABYTE
        say(args, f"prefix cache: {job.source} found, {size:.2f} GB; it saves {saved:.0f} s of encoding")
        return
    new = f"{job.source} encoded" if len(missing) == pairs else f"{job.source}: {len(missing):,} of {pairs:,} encoded"
    others = "" if len(missing) == pairs else "; the others found"
    speed = f"in {seconds:.0f} s in {job.key.compute_dtype}, {tokens / seconds:,.0f} tokens a second"
    say(args, f"prefix cache: {new} {speed}{others}")
