"""What each number among the arguments may be; what is out of range is said before anything is read."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from recipe.arguments import MOST_TAILS
from recipe.errors import UserError

MOST = 2**31 - 1  # of any whole number; what would be more is a slip of the keyboard


def _share_or_steps(value: float) -> bool:
    return value < 1 or (value == int(value) and value <= MOST)


# What is expected, whether a value is that, and of which flags; NaN compares false with everything.
RULES: list[tuple[str, Callable[[Any], bool], tuple[str, ...]]] = [
    (
        "a whole number of at least 1",
        lambda value: 1 <= value <= MOST,
        (
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
            *("shuffle_buffer_size", "max_train_samples", "max_eval_samples", "early_stopping_patience"),
            *("eval_accumulation_steps", "save_total_limit", "torch_empty_cache_steps", "ddp_bucket_cap_mb"),
            *("ddp_timeout", "dataloader_prefetch_factor"),
        ),
    ),
    ("a whole number of at least 8", lambda value: 8 <= value <= MOST, ("max_length",)),
    (f"a whole number from 1 to {MOST_TAILS}", lambda value: 1 <= value <= MOST_TAILS, ("num_tails",)),
    ("a whole number from 0 to 1024", lambda value: 0 <= value <= 1024, ("dataloader_num_workers",)),
    ("a whole number from 0 to 4294967295", lambda value: 0 <= value < 2**32, ("seed", "data_seed")),
    (
        "a whole number of at least 1, or -1 for as many as --num_train_epochs makes",
        lambda value: value == -1 or 1 <= value <= MOST,
        ("max_steps",),
    ),
    ("a number above 0", lambda value: 0 < value < math.inf, ("learning_rate", "adam_epsilon")),
    ("a number above 0 and at most a million", lambda value: 0 < value <= 1e6, ("num_train_epochs",)),
    (
        "a number of at least 0",
        lambda value: 0 <= value < math.inf,
        ("weight_decay", "eval_delay", "prefix_cache_max_gb"),
    ),
    ("a number of at least 0, where 0 clips nothing,", lambda value: 0 <= value < math.inf, ("max_grad_norm",)),
    (
        "a number from 0 to below 1",
        lambda value: 0 <= value < 1,
        ("dropout", "label_smoothing_factor", "adam_beta1", "adam_beta2"),
    ),
    (
        "a whole number of steps, or a share of all steps below 1,",
        lambda value: 0 < value < math.inf and _share_or_steps(value),
        ("logging_steps", "eval_steps", "save_steps"),
    ),
    (
        "a whole number of steps, or a share of all steps below 1,",
        lambda value: 0 <= value < math.inf and _share_or_steps(value),
        ("warmup_steps",),
    ),
]


def check_ranges(values: Mapping[str, Any]) -> None:
    """Check every number of `values` by its rule.

    Raises:
        UserError: one is out of its range.
    """
    for expected, holds, names in RULES:
        for name in names:
            value = values.get(name)
            if value is not None and not holds(value):
                shown = f"{value:g}" if isinstance(value, float) else value
                limited = isinstance(value, int) and value > MOST and holds(MOST) and not holds(MOST + 1)
                most = f" and at most {MOST}" if limited else ""
                raise UserError(f"--{name} {shown}: {expected} is expected{most}")
