"""Whether a checkpoint can be gone on from: all that a resume needs is there, of its shape, and torch reads it."""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals  # what the Trainer reads random states with

from recipe.cache import cached_split
from recipe.checkpoints.identity import IDENTITY
from recipe.checkpoints.manifest import Checkpoint
from recipe.checkpoints.rotation import with_best
from recipe.errors import Damaged
from recipe.file_names import MANIFEST, STATE, WEIGHTS
from recipe.system.json_files import misfit

RUN = {
    "identity": IDENTITY,
    "prefix": (cached_split.STATE_SHAPE, str),
    "base_model": str,
    "frozen_prefix_depth": (int, None),
}
STATES = {"global_step": int, "max_steps": int, "epoch": float, "log_history": [{"step": int}]}
SHARDED = re.compile(r"optimizer\.bin|optimizer_\d+/.*|pytorch_model_fsdp.*|latest|global_step\d+/.*")  # FSDP, ZeRO
RANDOM = re.compile(r"rng_state(_\d+)?\.pth")


def open_resumable(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, which a run can go on from; the best one of its run checked as well.

    Raises:
        Damaged: it cannot, or one of them is not good; the message names the file that is at fault.
    """
    checkpoint = with_best(folder)
    problem = misfit(checkpoint.manifest, RUN)
    if problem:
        raise Damaged(f"{folder / MANIFEST}: {problem}")
    cached_split.recorded_state(checkpoint.manifest["prefix"])
    files = checkpoint.manifest["files"]
    for name in _needed(files):
        if name not in files:
            raise Damaged(f"{folder / name}: not there")
    for name, check in CHECKS.items():
        for found in sorted(filter(re.compile(name).fullmatch, files)):
            _check(folder / found, check, checkpoint)
    return checkpoint


def _needed(files: dict[str, Any]) -> list[str]:
    """The files that a resume needs; where weights are sharded, their library knows."""
    needed = [WEIGHTS, STATE]
    if not any(map(SHARDED.fullmatch, files)):
        needed += ["optimizer.pt", "scheduler.pt"]
    return needed if any(map(RANDOM.fullmatch, files)) else [*needed, "rng_state.pth"]


def _check(path: Path, check: Any, checkpoint: Checkpoint) -> None:
    try:
        good = check(path, checkpoint)
    except Exception as error:  # each reader has errors of its own
        reason = " ".join(str(error).split())[:160]
        raise Damaged(f"{path}: cannot be loaded: {type(error).__name__}: {reason}") from None
    if not good:
        raise Damaged(f"{path}: not what a run of this model saves")


def _load(path: Path) -> Any:
    with safe_globals():
        return torch.load(path, map_location="cpu", weights_only=True)


def _weights(path: Path, checkpoint: Checkpoint) -> bool:
    with safe_open(path, framework="pt") as file:
        return set(file.keys()) == set(checkpoint.manifest["trainable"])


def _optimizer(path: Path, checkpoint: Checkpoint) -> bool:
    """Of as many parameters as are trained; which are in what order is the manifest's to say."""
    found = _load(path)
    places = [place for group in found["param_groups"] for place in group["params"]]
    return len(places) == len(checkpoint.manifest["trainable"]) and set(found["state"]) <= set(places)


def _scheduler(path: Path, checkpoint: Checkpoint) -> bool:
    return isinstance(_load(path)["last_epoch"], int)


def _random(path: Path, checkpoint: Checkpoint) -> bool:
    found = _load(path)
    random.Random().setstate(found["python"])
    np.random.RandomState().set_state(found["numpy"])
    torch.Generator().set_state(found["cpu"])
    return True


def _state(path: Path, checkpoint: Checkpoint) -> bool:
    state = TrainerState.load_from_json(str(path))
    evaluations = [entry for entry in state.log_history if "eval_accuracy" in entry]
    return (
        not misfit(vars(state), STATES)
        and state.global_step == checkpoint.step
        and all("eval_runtime" in entry for entry in evaluations)
    )


CHECKS = {
    re.escape(WEIGHTS): _weights,
    re.escape(STATE): _state,
    r"optimizer\.pt": _optimizer,
    r"scheduler\.pt": _scheduler,
    r"scaler\.pt": lambda path, _: isinstance(_load(path), dict),
    RANDOM.pattern: _random,
}
