"""The processes of a run, on one machine or several: what they tell each other, and what they share.

Each function but `Share.of`, `first_on_machine` and `check_sharding` is collective: every rank must call it.
"""

import os
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from transformers import TrainingArguments

from recipe.errors import RunError, UserError
from recipe.process.text import one_line
from recipe.system.files import LOCK
from recipe.system.folder_lock import locked

T = TypeVar("T")


class Share(NamedTuple):
    """This process among those of its machine, which divide between them what the machine computes once."""

    rank: int
    ranks: int

    @classmethod
    def of(cls, args: TrainingArguments) -> "Share":
        """From what the launcher says."""
        return cls(args.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def meeting(seconds: float = 15.0) -> Iterator[None]:
    """Around the processes' first meeting: after `seconds` say what is waited for, which may be a launcher long gone.

    Raises:
        RunError: they did not find each other.
    """
    place = {name: os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    who = "process {RANK} of {WORLD_SIZE}, which meet at {MASTER_ADDR}:{MASTER_PORT}".format_map(place)
    wait = f"{who}, waits for the others; where no launcher started it: unset RANK WORLD_SIZE LOCAL_RANK\n"
    timer = threading.Timer(seconds, lambda: sys.stderr.write(wait) and None)
    timer.daemon = True
    if place["WORLD_SIZE"] not in ("?", "1"):
        timer.start()
    try:
        yield
    except torch.distributed.DistError as error:
        raise RunError(f"{who}: {one_line(error)}; a free port is named by --main_process_port") from error
    finally:
        timer.cancel()


def from_all_ranks(args: TrainingArguments, value: Any) -> list[Any]:
    """Every rank's `value`, in the order of the ranks."""
    if args.world_size == 1:
        return [value]
    values = [None] * args.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def from_first_rank(args: TrainingArguments, find: Callable[[], T], *kinds: type[Exception]) -> T:
    """What `find` gives on rank 0, on all ranks: what depends on a clock or a disk may come out differently there.

    Raises:
        UserError, or one of `kinds`: `find` raised one.
    """
    found = together(args, lambda: find() if args.process_index == 0 else None, *kinds)
    return from_all_ranks(args, found)[0]


def together(args: TrainingArguments, find: Callable[[], T], *kinds: type[Exception]) -> T:
    """What `find` gives here; an error of any rank is raised on all, so that none waits for one that is gone.

    Args:
        kinds: errors that are raised on all besides UserError.

    Raises:
        UserError, or one of `kinds`: with the machine's name before it where it is not the first rank's.
    """
    value, failure = None, None
    kinds_for_all: tuple[type[Exception], ...] = (UserError, *kinds)
    try:
        value = find()
    except kinds_for_all as error:
        if args.world_size == 1:
            raise
        place = "" if args.process_index == 0 else f"on {socket.gethostname()}: "
        kind = next(number for number, each in enumerate(kinds_for_all) if isinstance(error, each))
        failure = kind, f"{place}{getattr(error, 'strerror', None) or error}"
    for failed in from_all_ranks(args, failure):
        if failed is not None:
            same = kinds_for_all[failed[0]](failed[1])
            same.on_all = True
            raise same
    return cast(T, value)


def first_on_machine(args: TrainingArguments) -> int:
    """The rank that is the first of this process's machine."""
    return args.process_index - args.local_process_index


@contextmanager
def held_output(args: TrainingArguments, folder: Path) -> Iterator[bool]:
    """Hold output_dir, `folder`, for this run; gives whether all machines see the same folder.

    The first rank writes a random token into the lock of its folder. Whoever reads the same token there sees the same
    folder; whoever reads another, or none, has a disk of its own, whatever the paths and the names of hosts say. Where
    a machine has, --save_on_each_node is switched on: each machine then keeps checkpoints of its own, which the Trainer
    reads on every rank, and its first rank holds its folder. The model is written by the first rank of all alone.

    Raises:
        UserError: another run holds it, or it cannot be written.
    """
    token = uuid.uuid4().hex
    with ExitStack() as stack:

        def hold() -> str:
            """Take the folder; gives what its lock says."""
            stack.enter_context(locked(folder, token))
            return token

        held = from_first_rank(args, hold)
        shared = all(from_all_ranks(args, args.world_size == 1 or _read_token(folder) == held))
        if not shared:
            args.save_on_each_node = True
            # by now `should_save` is true of each machine's first rank; the very first holds its folder already
            together(args, lambda: hold() if args.should_save and args.process_index > 0 else None)
        yield shared


def _read_token(folder: Path) -> str | None:
    try:
        return (folder / LOCK).read_text(encoding="utf-8")
    except OSError:
        return None


def check_sharding(environment: Mapping[str, str]) -> None:
    """Check that FSDP, where accelerate switched it on, gives whole weights to save: the Trainer saves none otherwise.

    Raises:
        UserError: it does not.
    """
    kind = environment.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and kind != "FULL_STATE_DICT":
        raise UserError(f"fsdp_state_dict_type {kind}: the model could not be saved; FULL_STATE_DICT is expected")
