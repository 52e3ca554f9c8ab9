"""The optimizer and the schedule that the arguments ask for, made for one number and thrown away: do they exist?"""

import importlib.util
import math

import torch
from transformers import TrainingArguments, get_scheduler

from recipe.errors import UserError

# What needs nothing but torch and transformers, with the --optim_args that it reads; the Trainer's parameter groups
# carry --weight_decay, so that one among these would do nothing.
OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "adamw_torch_fused": (),
    "adamw_torch": (),
    "adafactor": (),
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
}
# The package of every other; bitsandbytes has those that are not named.
PACKAGES = {
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu_fused": "torch_npu",
    "adamw_anyprecision": "torchdistx",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "grokadamw": "grokadamw",
    "stable_adamw": "optimi",
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "schedule_free": "schedulefree",
}
# What a schedule cannot do without.
NEEDED = {
    "cosine_with_min_lr": '{"min_lr_rate": 0.1}',
    "cosine_warmup_with_min_lr": '{"min_lr_rate": 0.1}',
    "warmup_stable_decay": '{"num_decay_steps": 100}',
}
NO_KWARGS = ("constant", "constant_with_warmup")  # get_scheduler passes them by
BY_METRIC = ("reduce_lr_on_plateau", "greedy")
NO_WARMUP = ("constant", *BY_METRIC)
STEPS = 1000  # of the schedule that is tried; how many the run has is known once its data are


def check_optimization(args: TrainingArguments) -> None:
    """Check that optimizer and schedule can be made and stepped, and give a schedule by metric its direction.

    Raises:
        UserError: a package is missing, or one of their arguments does not exist.
    """
    optimizer = _optimizer(args)
    kind, kwargs = args.lr_scheduler_type.value, dict(args.lr_scheduler_kwargs or {})
    if kind in BY_METRIC:
        _settle_mode(args, kwargs)
    flags = f"--lr_scheduler_type {kind}" + (f" --lr_scheduler_kwargs {args.lr_scheduler_kwargs}" if kwargs else "")
    if kind in NO_WARMUP and args.warmup_steps:
        way = "constant_with_warmup is expected" if kind == "constant" else "leave it out"
        given = f"--warmup_steps {args.warmup_steps:g} with --lr_scheduler_type {kind}"
        raise UserError(f"{given}: this schedule has no warm-up; {way}")
    if kind in NO_KWARGS and kwargs:
        raise UserError(f"{flags}: this schedule takes none; leave them out")
    numbers = [value for value in kwargs.values() if isinstance(value, (int, float))]
    if not all(0 <= value < math.inf for value in numbers):
        raise UserError(f"{flags}: finite numbers of at least 0 are expected")
    try:
        _try(args, optimizer)
    except Exception as error:  # whatever a schedule makes of a number or a word that it did not expect
        expected = f"; --lr_scheduler_kwargs '{NEEDED[kind]}' is of the form expected" if kind in NEEDED else ""
        raise UserError(f"{flags}: {' '.join(str(error).split())}{expected}") from error


def _optimizer(args: TrainingArguments) -> torch.optim.Optimizer:
    """The optimizer over one parameter; one of another package stands in for it where that is installed."""
    from transformers import Trainer

    name, parameter = args.optim.value, [torch.nn.Parameter(torch.zeros(1))]
    words = list(filter(None, (args.optim_args or "").replace(" ", "").split(",")))
    if any(word.split("=")[0] == "weight_decay" for word in words):
        raise UserError(f"--optim_args {args.optim_args}: weight_decay does nothing there; --weight_decay is expected")
    if name not in OPTIMIZERS:
        _check_package(name)
        return torch.optim.SGD(parameter, lr=args.learning_rate)
    if args.optim_target_modules is not None:
        raise UserError(f"--optim_target_modules {args.optim_target_modules}: --optim {name} trains all that is free")
    for word in words:
        if word.count("=") != 1 or word.split("=")[0] not in OPTIMIZERS[name]:
            takes = ", ".join(f"{key}=..." for key in OPTIMIZERS[name]) or "none"
            raise UserError(f"--optim_args {args.optim_args}: --optim {name} takes {takes}, between commas")
    try:
        kind, kwargs = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = kind(parameter, **kwargs)
    except Exception as error:  # whatever an optimizer makes of a number or a word that it did not expect
        raise UserError(f"--optim {name} --optim_args {args.optim_args}: {' '.join(str(error).split())}") from error
    if not all(math.isfinite(value) for value in optimizer.defaults.values() if isinstance(value, float)):
        raise UserError(f"--optim_args {args.optim_args}: finite numbers are expected")
    return optimizer


def _check_package(name: str) -> None:
    ours = ", ".join(OPTIMIZERS)
    if name.endswith("_layerwise") or "lomo" in name:
        raise UserError(f"--optim {name}: it steps inside backward, so no checkpoint would hold it; one of {ours}")
    package = next((package for start, package in PACKAGES.items() if name.startswith(start)), "bitsandbytes")
    if importlib.util.find_spec(package) is None:
        raise UserError(f"--optim {name}: its package {package} is not installed; without it there are {ours}")


def _settle_mode(args: TrainingArguments, kwargs: dict[str, object]) -> None:
    """Stock takes more for worse, whatever the metric: it would lower the rate when accuracy rises."""
    mode = "max" if args.greater_is_better else "min"
    if kwargs.setdefault("mode", mode) != mode:
        raise UserError(
            f"--lr_scheduler_kwargs {args.lr_scheduler_kwargs}: of {args.metric_for_best_model} "
            f"{'more' if mode == 'max' else 'less'} is better, so that mode {mode} is expected"
        )
    args.lr_scheduler_kwargs = kwargs


def _try(args: TrainingArguments, optimizer: torch.optim.Optimizer) -> None:
    """Make the schedule and ask it for rates.

    Raises:
        Exception: of any kind, or ValueError for a rate that cannot be.
    """
    steps = args.max_steps if args.max_steps > 0 else STEPS
    schedule = get_scheduler(
        args.lr_scheduler_type, optimizer, args.get_warmup_steps(steps), steps, args.lr_scheduler_kwargs
    )
    if args.lr_scheduler_type.value in BY_METRIC:
        for _ in range(3):
            schedule.step(0.5)
        return
    for step in sorted({0, 1, steps // 2, steps - 1, steps}):
        share = schedule.lr_lambdas[0](step)
        if not 0 <= share <= 1 + 1e-9:
            raise ValueError(f"the rate at step {step} would be {share:g} times --learning_rate; 0 to 1 is expected")
