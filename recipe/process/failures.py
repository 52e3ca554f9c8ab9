"""What transformers, accelerate, torch and the system raise where a user can do something about it, in one line."""

import dataclasses
import errno
import os
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from recipe.arguments import FreezeTrainingArguments
from recipe.errors import Damaged, RunError, UserError
from recipe.process.text import one_line

OURS = (UserError, RunError, Damaged)

# In which of transformers' functions which flag is put to work, the innermost first.
FLAGS = {
    "init_hf_repo": "push_to_hub",
    "get_reporting_integration_callbacks": "report_to",
    "add_callback": "report_to",
    "set_up_reporters": "report_to",
    "create_scheduler": "lr_scheduler_type",
    "create_optimizer": "optim",
    "apply_liger_kernel": "use_liger_kernel",
    "activate_neftune": "neftune_noise_alpha",
    "activation_checkpointing_enable": "activation_checkpointing",
    "create_accelerator_and_postprocess": "accelerator_config",
}

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "Cannot allocate memory",
)
SHARED_MEMORY = ("DataLoader worker", "shared memory", "/torch_", "unable to mmap", "unable to resize")


def as_refusal(args: FreezeTrainingArguments) -> AbstractContextManager[None]:
    """Take an error of the libraries, while a run is put together, for a refusal of its arguments.

    Raises:
        UserError: any, with the flag at fault where that can be told.
    """
    return in_one_line(args, begun=lambda: False)


def blame(args: FreezeTrainingArguments, error: Exception) -> str:
    """The flag at whose work the error came up or that it names, its value, and what is wrong, in one line."""
    called = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    name = next((flag for function, flag in FLAGS.items() if function in called), None)
    named = [field for field in _given(args) if re.search(rf"\b{field}\b", str(error))]
    if named and (name is None or name not in named):
        name = max(named, key=len)
    reason = one_line(error) or type(error).__name__
    if name == "accelerator_config":
        return f"{_settings(str(error))}: {reason}"
    return f"--{name} {_text(getattr(args, name))}: {reason}" if name else f"{type(error).__name__}: {reason}"


def _settings(said: str) -> str:
    """accelerate's settings in the environment, those that an error repeats before all others."""
    found = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    named = {name: value for name, value in found.items() if len(value) > 1 and value.lower() in said.lower()}
    return "accelerate" + "".join(f" {name}={value}" for name, value in sorted((named or found).items()))


def _given(args: FreezeTrainingArguments) -> list[str]:
    """The flags whose values are no defaults."""
    fields = [each for each in dataclasses.fields(args) if each.init and each.default is not dataclasses.MISSING]
    return [each.name for each in fields if getattr(args, each.name) != each.default]


def _text(value: Any) -> str:
    value = getattr(value, "value", value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


@contextmanager
def in_one_line(args: FreezeTrainingArguments, begun: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Tell in one line of what a run ran out of or lost, and before its first step is done of all that it cannot do.

    Raises:
        RunError: memory of the processor or a GPU, or the loader workers' shared memory; or another process is lost.
        UserError: the libraries refuse the first step.
    """
    try:
        yield
    except OURS:
        raise
    except Exception as error:
        tell_memory(args, error)
        tell_lost(args, error)
        if begun():
            raise
        raise UserError(blame(args, error)) from error


def tell_memory(args: FreezeTrainingArguments, error: Exception) -> None:
    """Nothing, unless the error is that memory ran out.

    Raises:
        RunError: it is.
    """
    said = str(error)
    workers = args.dataloader_num_workers
    shared = any(word in said for word in SHARED_MEMORY)
    if workers and (shared or getattr(error, "errno", None) == errno.ENOSPC):
        raise RunError(
            f"--dataloader_num_workers {workers}: {one_line(error, 120)}; {_shared()}; 0 loads in the run's own process"
        ) from error
    if shared:
        raise RunError(f"{one_line(error, 120)}; {_shared()}; a container takes more by --shm-size") from error
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in said for word in OUT_OF_MEMORY):
        train, eval_size = args.per_device_train_batch_size, args.per_device_eval_batch_size
        raise RunError(
            f"out of memory on {args.device}: {one_line(error, 160) or 'none left'}; lower "
            f"--per_device_train_batch_size {train} (the steps stay the same where --gradient_accumulation_steps "
            f"{args.gradient_accumulation_steps} is raised as much), --per_device_eval_batch_size {eval_size} or "
            "--max_length, or freeze more layers"
        ) from error


def tell_lost(args: FreezeTrainingArguments, error: Exception) -> None:
    """Nothing, unless the error is that another process of the run is gone, which alone knows why.

    Raises:
        RunError: it is.
    """
    gloo = isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    if args.world_size > 1 and (gloo or isinstance(error, torch.distributed.DistError)):
        reason = re.sub(r"^\[\S+\] ", "", str(error))  # where in gloo's source
        raise RunError(
            f"process {args.process_index} of {args.world_size}: another one has ended or does not answer "
            f"({one_line(reason, 160)}); if it says nothing itself it was killed; {args.same_command} goes on from "
            "what is saved"
        ) from error


def _shared() -> str:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return "there is no /dev/shm"
    return f"/dev/shm has {shutil.disk_usage(shared).free / 1e6:,.1f} MB free"
