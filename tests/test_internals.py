"""The private names of the libraries are where `internals` says; a release that moves one fails here."""

import inspect
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from transformers import Trainer

from recipe import internals
from recipe.command_line.one_line_parser import OneLineParser
from recipe.training.trainer import FreezeTrainer

# Methods of the Trainer that FreezeTrainer overrides, with the parameters that it calls them with.
TRAINER_METHODS = {
    "_save": ("output_dir", "state_dict"),
    "_push_from_checkpoint": ("checkpoint_folder",),
    "_save_checkpoint": ("model", "trial"),
    "_determine_best_metric": ("metrics", "trial"),
    "_evaluate": ("trial", "ignore_keys_for_eval", "skip_scheduler"),
    "_finalize_training": ("trial", "num_train_samples", "start_time"),
    "_init_training_state": (
        "max_steps",
        "num_update_steps_per_epoch",
        "num_train_epochs",
        "resume_from_checkpoint",
        "trial",
    ),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_load_rng_state": ("checkpoint",),
    "_load_best_model": (),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
}


def test_the_trainers_private_methods_are_the_ones_that_are_overridden():
    private = {name for name in vars(FreezeTrainer) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if hasattr(Trainer, name)} == TRAINER_METHODS.keys()
    for name, expected in TRAINER_METHODS.items():
        theirs = tuple(inspect.signature(getattr(Trainer, name)).parameters)[1:]
        assert theirs == expected, name


def test_the_trainer_calls_them():
    source = inspect.getsource(Trainer)
    for name in TRAINER_METHODS:
        assert f"self.{name}(" in source, name


def test_a_parser_tells_its_flags_and_takes_negative_numbers():
    parser = OneLineParser(add_help=False)
    parser.add_argument("--rate", type=float)
    assert [action.dest for action in internals.actions_of(parser)] == ["rate"]
    assert parser.parse_args(["--rate", "-1e-4"]).rate == -1e-4


def test_a_model_tells_how_attention_is_computed(model):
    assert internals.attention_of(model.config) == "sdpa"


def test_a_schedule_gives_the_rates_that_were_set():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    internals.set_last_rates(schedule, [0.5])
    assert schedule.get_last_lr() == [0.5]


def test_several_gpus_are_one(arguments):
    args = arguments().training
    assert hasattr(args, "_n_gpu")
    several = SimpleNamespace(n_gpu=4, _n_gpu=4)
    internals.use_one_gpu(several)
    assert several._n_gpu == 1


def test_the_trainers_sums_of_losses_are_where_they_were():
    source = inspect.getsource(Trainer)
    for name in ("_total_loss_scalar", "_tr_loss", "_globalstep_last_logged", "_initial_global_step"):
        assert f"self.{name} = " in source, name
    trainer = SimpleNamespace(_tr_loss=torch.tensor(1.0))
    internals.set_losses(trainer, 2.5, 0.5, 4)
    assert internals.losses_of(trainer) == (2.5, torch.tensor(1.5), 4)
    internals.count_steps_from(trainer, 3)
    assert trainer._initial_global_step == 3


def test_compiling_is_allowed_so_often():
    before = torch._dynamo.config.recompile_limit
    internals.allow_recompiles(before + 1)
    assert torch._dynamo.config.recompile_limit == before + 1
    internals.allow_recompiles(before)


def test_a_study_tells_where_it_lies():
    optuna = __import__("pytest").importorskip("optuna")
    study = optuna.create_study()
    assert internals.storage_of(study) is study._storage


def test_an_accelerator_lets_go_of_its_loaders():
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(torch.utils.data.DataLoader([1, 2]))
    assert accelerator._dataloaders == [loader]
    internals.forget_loaders(accelerator)
    assert accelerator._dataloaders == []
