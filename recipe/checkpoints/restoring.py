"""Whether a checkpoint can be gone on from: all that a resume needs is there, of its shape, and torch reads it."""

import contextlib
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerState

from recipe.cache import cached_split
from recipe.checkpoints.carried import SHAPE
from recipe.checkpoints.identity import EVALUATED_WITH, IDENTITY
from recipe.checkpoints.manifest import Checkpoint
from recipe.checkpoints.random_states import are_random_states, load
from recipe.checkpoints.rotation import with_best
from recipe.errors import Damaged, RunError
from recipe.file_names import MANIFEST, STATE, WEIGHTS
from recipe.process.text import one_line
from recipe.system.json_files import misfit

RUN = {
    "identity": IDENTITY,
    "prefix": (cached_split.STATE_SHAPE, str),
    "base_model": str,
    "frozen_prefix_depth": (int, None),
    "carried?": SHAPE,
    "evaluated_with?": EVALUATED_WITH,
}
CALLBACK = {"args": {str: (float, bool, str, None)}, "attributes": {str: object}}
STATES = {"global_step": int, "max_steps": int, "epoch": float, "log_history": [{"step": int}], "total_flos": float}
STATES |= {"num_train_epochs": float, "train_batch_size": (int, None), "best_metric": (float, None)}
STATES |= {"stateful_callbacks": {str: (CALLBACK, [CALLBACK])}}
SHARDED = re.compile(r"optimizer\.bin|optimizer_\d+/.*|pytorch_model_fsdp.*|latest|global_step\d+/.*")  # FSDP, ZeRO
RANDOM = re.compile(r"rng_state(_\d+)?\.pth")
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")  # of a parameter's own shape


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
        reason = f"{type(error).__name__}: {one_line(error, 160)}"
        if isinstance(error, pickle.UnpicklingError):  # torch advises to run what the file says
            reason = "it holds something else than tensors and numbers"
        raise Damaged(f"{path}: cannot be loaded: {reason}") from None
    if not good:
        raise Damaged(f"{path}: not what a run of this model saves")


def _weights(path: Path, checkpoint: Checkpoint) -> bool:
    found = load_file(path)
    return set(found) == set(checkpoint.manifest["trainable"]) and all(map(_finite, found.values()))


def _finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or not value.is_floating_point() or bool(value.isfinite().all())


def _optimizer(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether it is of as many parameters as are trained; the manifest has their order."""
    found = load(path)
    groups = found["param_groups"]
    places = [place for group in groups for place in group["params"]]
    states = [found["state"][place] for place in (places if found["state"] else [])]
    return (
        len(places) == len(checkpoint.manifest["trainable"])
        and set(found["state"]) <= set(places)
        and all(isinstance(group["lr"], (float, Tensor)) for group in groups)
        and (not _is_adam(checkpoint) or _adams(groups, states))
        and all(_finite(value) for each in states for value in each.values())
        and _of_their_shapes(states, checkpoint)
    )


def _is_adam(checkpoint: Checkpoint) -> bool:
    return str(checkpoint.manifest["identity"]["arguments"].get("training.optim")).startswith("adamw_torch")


def _adams(groups: list[dict[str, Any]], states: list[dict[str, Any]]) -> bool:
    hyper = all({"eps", "weight_decay"} <= set(group) and len(group["betas"]) == 2 for group in groups)
    return hyper and bool(states) and all({"step", "exp_avg", "exp_avg_sq"} <= set(each) for each in states)


def _of_their_shapes(states: list[dict[str, Any]], checkpoint: Checkpoint) -> bool:
    """torch's foreach kernels read past the end of a moment that is smaller than its weight."""
    weights = Counter(value.shape for value in load_file(checkpoint.folder / WEIGHTS).values())
    return not any(
        Counter(each[key].shape for each in states if each.get(key) is not None) - weights for key in MOMENTS
    )


def _scheduler(path: Path, checkpoint: Checkpoint) -> bool:
    found = load(path)
    rates = [found[name] for name in ("base_lrs", "_last_lr") if name in found]
    return 0 <= found["last_epoch"] <= checkpoint.step and all(len(each) == len(rates[0]) for each in rates)


def _state(path: Path, checkpoint: Checkpoint) -> bool:
    state = TrainerState.load_from_json(str(path))
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
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
    r"scaler\.pt": lambda path, _: isinstance(load(path), dict),
    RANDOM.pattern: lambda path, _: are_random_states(path),
}


@contextlib.contextmanager
def going_on(checkpoint: str | None) -> Iterator[None]:
    """Say in one line what of a checkpoint, good as its files are, does not fit this run."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        advice = "without it the same command takes the one before"
        raise RunError(f"{checkpoint}: cannot be gone on from ({reason}); {advice}") from error
