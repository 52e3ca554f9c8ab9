"""A checkpoint's random states: those that the Trainer saves, and of the accelerators that it leaves out theirs."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainingArguments
from transformers.trainer_pt_utils import safe_globals  # what the Trainer reads random states with

LEFT_OUT = ("xpu", "mps")  # kinds of device whose generator, from which dropout draws, Trainer._save_rng_state forgets


def load(path: Path) -> Any:
    """What torch has saved, on the CPU; tensors, numbers and numpy's arrays alone."""
    with safe_globals():
        return torch.load(path, map_location="cpu", weights_only=True)


def keep_device_state(folder: Path, args: TrainingArguments) -> None:
    """Put the state of this rank's device, if the Trainer leaves it out, beside those that it has saved."""
    kind, path = args.device.type, _own_file(folder, args)
    if kind in LEFT_OUT:
        torch.save({**load(path), kind: getattr(torch, kind).get_rng_state()}, path)


def take_device_state(checkpoint: str | None, args: TrainingArguments) -> None:
    """Go on with what `keep_device_state` kept; a checkpoint of an earlier release, or of another device, has none."""
    kind, path = args.device.type, _own_file(Path(checkpoint or ""), args)
    if checkpoint is not None and kind in LEFT_OUT and path.exists() and kind in (states := load(path)):
        getattr(torch, kind).set_rng_state(states[kind])


def _own_file(folder: Path, args: TrainingArguments) -> Path:
    return folder / ("rng_state.pth" if args.world_size == 1 else f"rng_state_{args.process_index}.pth")


def are_random_states(path: Path) -> bool:
    """Whether a file holds states that generators take; others than the CPU's are looked at and not tried.

    Raises:
        Exception: Python's, numpy's or torch's generator refuses its own; each has errors of its own.
    """
    found = load(path)
    random.Random().setstate(found.pop("python"))
    np.random.RandomState().set_state(found.pop("numpy"))
    torch.Generator().set_state(found.pop("cpu"))
    found.pop("xla", None)  # a number
    devices = [state for each in found.values() for state in ([each] if isinstance(each, Tensor) else each)]
    return all(state.dtype == torch.uint8 for state in devices)
