"""The libraries' private names that this recipe leans on, all of them; a test fails when a release moves one.

Each stands here because there is no public way. There are two exceptions: the methods of the Trainer that FreezeTrainer
overrides, which that test lists; and the inside of BertLayer, which `modeling` leans on, since that file is copied
beside saved models.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """A parser's flags; HfArgumentParser makes them, so that nobody else has a list."""
    return parser._actions


def take_negative_numbers(parser: argparse.ArgumentParser) -> None:
    """Have -1e-4 and -inf be values; Python 3.11's argparse takes them for flags."""
    parser._negative_number_matcher = re.compile(r"^-(\.?\d|inf|nan)", re.IGNORECASE)


def attention_of(config: Any) -> str:
    """How attention is computed: 'sdpa' or 'eager'."""
    return str(config._attn_implementation)


def use_one_gpu(args: Any) -> None:
    """Keep TrainingArguments from nn.DataParallel, which several visible GPUs without a launcher would become."""
    args._n_gpu = min(args.n_gpu, 1)


def allow_recompiles(times: int) -> None:
    """Let torch.compile compile a function so many times; behind its 8 it silently runs as it was."""
    import torch._dynamo  # takes a second

    torch._dynamo.config.recompile_limit = times


def set_last_rates(schedule: Any, rates: Sequence[Any]) -> None:
    """Tell a schedule what rates it gave last, which the Trainer logs."""
    schedule._last_lr = list(rates)


def losses_of(trainer: Any) -> tuple[float, Any, int]:
    """The Trainer's sum of logged losses, this rank's sum since the last log, and the step of that log."""
    return trainer._total_loss_scalar, trainer._tr_loss, trainer._globalstep_last_logged


def set_losses(trainer: Any, total: float, unlogged: float, logged: int) -> None:
    """Have the Trainer, which begins at nought, go on with what `losses_of` gave."""
    trainer._total_loss_scalar, trainer._globalstep_last_logged = total, logged
    trainer._tr_loss += unlogged


def count_steps_from(trainer: Any, step: int) -> None:
    """Have the Trainer's closing figures be of the steps behind `step`, not of those that this process took."""
    trainer._initial_global_step = step


def forget_loaders(accelerator: Any) -> None:
    """Let go of the loaders that were prepared, each with its data set: an accelerator keeps all of them."""
    accelerator._dataloaders.clear()


def storage_of(study: Any) -> Any:
    """Where an Optuna study lies, for the Trainer's search to go on with."""
    return study._storage
