"""Loader workers hand their batches over in shared memory, of which a container may have little."""

import multiprocessing
import shutil
from pathlib import Path

from recipe.arguments import FreezeTrainingArguments, RecipeArguments
from recipe.process.progress import say

SHARED = Path("/dev/shm")  # where torch keeps it on Linux
TOKEN_BYTES = 24  # ids, types and mask


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
