"""Loader workers: the same random numbers with and without them, and shared memory, of which there may be little."""

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from recipe.arguments import FreezeTrainingArguments, RecipeArguments
from recipe.batches.order import TrainBatches
from recipe.process.progress import say

SHARED = Path("/dev/shm")  # where torch keeps it on Linux
TOKEN_BYTES = 24  # ids, types and mask


class EvenLoader(DataLoader):
    """A loader of whole batches that takes a number from PyTorch's random state for each pass, whatever its workers do.

    A DataLoader takes one, a seed, with each iterator that it makes: where workers stay, for its first pass alone. A
    run that goes on makes it in a later epoch than one that was never stopped, and on a CPU dropout would draw other
    numbers from there on.
    """

    begun = False

    @classmethod
    def of(cls, batches: TrainBatches, collate: Callable[..., Any], args: FreezeTrainingArguments) -> "EvenLoader":
        """The loader of a run's training batches."""
        return cls(
            batches,
            batch_size=None,
            collate_fn=collate,
            num_workers=args.dataloader_num_workers,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            pin_memory=args.dataloader_pin_memory,
        )

    def __iter__(self) -> Any:
        if self.begun and self.persistent_workers:
            torch.empty((), dtype=torch.int64).random_()
        self.begun = True
        return super().__iter__()


@contextmanager
def workers_that_leave(args: FreezeTrainingArguments) -> Iterator[None]:
    """Switch --dataloader_persistent_workers off for the loaders that are made in the block."""
    stay, args.dataloader_persistent_workers = args.dataloader_persistent_workers, False
    try:
        yield
    finally:
        args.dataloader_persistent_workers = stay


def do_without_spawned_workers(args: FreezeTrainingArguments) -> None:
    """Read a cache without workers where they would be spawned, as on macOS: no mapped tensor can be sent there."""
    if args.dataloader_num_workers and multiprocessing.get_start_method() != "fork":
        _do_without(args, ": none are needed to read the cache here")


def do_without_workers_where_short(arguments: RecipeArguments, state_bytes: int = 0) -> None:
    """Load in the run's own process where the workers' batches would not fit; the batches are the same.

    Args:
        state_bytes: of a token's state from the prefix cache, where the batches consist of them.
    """
    args = arguments.training
    if not args.dataloader_num_workers or not SHARED.is_dir():
        return
    pairs = max(args.per_device_train_batch_size, args.per_device_eval_batch_size)
    batches = args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
    need = batches * pairs * arguments.data.max_length * (TOKEN_BYTES + state_bytes)
    free = shutil.disk_usage(SHARED).free
    if need > free:
        _do_without(
            args,
            f" would hand over {need / 1e6:,.1f} MB in {SHARED}, which has {free / 1e6:,.1f} MB free; the run loads in "
            "its own process",
        )


def _do_without(args: FreezeTrainingArguments, why: str) -> None:
    say(args, f"note: --dataloader_num_workers {args.dataloader_num_workers}{why}")
    args.dataloader_num_workers, args.dataloader_prefetch_factor = 0, None
    args.dataloader_persistent_workers = False
