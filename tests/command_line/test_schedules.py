import pytest
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from recipe.command_line.parsing import parse
from recipe.command_line.schedules import NEEDED, NO_KWARGS, NO_WARMUP, OPTIMIZERS
from recipe.errors import UserError

GOOD = {
    **NEEDED,
    "linear": "{}",
    "cosine": '{"num_cycles": 1}',
    "cosine_with_restarts": '{"num_cycles": 2}',
    "polynomial": '{"power": 2, "lr_end": 1e-6}',
    "constant": "{}",
    "constant_with_warmup": "{}",
    "inverse_sqrt": '{"timescale": 50}',
    "reduce_lr_on_plateau": '{"patience": 1}',
    "greedy": '{"patience": 1}',
}


@pytest.mark.parametrize("kind", [kind.value for kind in SchedulerType])
def test_each_schedule_is_taken_with_what_it_needs_and_refused_with_what_it_cannot_use(kind):
    words = [f"--lr_scheduler_type={kind}", f"--lr_scheduler_kwargs={GOOD[kind]}"]
    parse([*words, f"--warmup_steps={0 if kind in NO_WARMUP else 0.1}"])
    if kind in NO_WARMUP:
        for steps in ("2", "0.1"):
            with pytest.raises(UserError, match=f"^--warmup_steps {steps} with --lr_scheduler_type {kind}: this sched"):
                parse([*words, f"--warmup_steps={steps}"])
    if kind in NEEDED:
        with pytest.raises(UserError, match=f"^--lr_scheduler_type {kind}: .*--lr_scheduler_kwargs '{{"):
            parse([f"--lr_scheduler_type={kind}"])
    else:
        parse([f"--lr_scheduler_type={kind}"])
    number = '{"num_cycles": -1}' if kind not in NO_KWARGS else '{"x": 1}'
    for bad in ('{"nonsense": 1}', number, "[1]", "{", "x"):
        with pytest.raises(UserError, match=r"^--lr_scheduler_(type|kwargs) ") as error:
            parse([f"--lr_scheduler_type={kind}", f"--lr_scheduler_kwargs={bad}"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_by_metric_knows_whether_more_of_it_is_better(kind):
    assert parse([f"--lr_scheduler_type={kind}"]).training.lr_scheduler_kwargs == {"mode": "max"}
    words = [f"--lr_scheduler_type={kind}", "--metric_for_best_model=loss"]
    assert parse(words).training.lr_scheduler_kwargs == {"mode": "min"}
    with pytest.raises(UserError, match="mode min is expected"):
        parse([*words, '--lr_scheduler_kwargs={"mode": "max"}'])
    with pytest.raises(UserError, match="--eval_strategy no"):
        parse([*words, "--eval_strategy=no"])


def test_a_rate_above_the_one_given_is_no_schedule():
    with pytest.raises(UserError, match="times --learning_rate"):
        parse(["--lr_scheduler_type=cosine_with_min_lr", '--lr_scheduler_kwargs={"min_lr_rate": 7}'])


def test_each_optimizer_is_there_or_is_refused_in_one_line():
    for name in (each.value for each in OptimizerNames):
        if name in OPTIMIZERS:
            parse([f"--optim={name}"])
        else:  # none of their packages is among those that the recipe installs
            with pytest.raises(UserError, match=f"^--optim {name}: it"):
                parse([f"--optim={name}"])


@pytest.mark.parametrize(
    "words",
    [
        "--optim_args=momentum=0.9",
        "--optim=sgd --optim_args=momentum",
        "--optim=sgd --optim_args=momentum=x",
        "--optim=sgd --optim_args=momentum=-1",
        "--optim=sgd --optim_args=momentum=nan",
        "--optim=sgd --optim_args=nesterov=true",
        "--optim=adagrad --optim_args=momentum=0.1",
        "--optim_target_modules=all-linear",
    ],
)
def test_arguments_that_an_optimizer_does_not_take_are_refused(words):
    with pytest.raises(UserError, match=r"^--optim"):
        parse(words.split())


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop", "adamw_torch", "stable_adamw"])
def test_a_weight_decay_that_would_do_nothing_is_told_where_it_belongs(name):
    with pytest.raises(UserError, match=r"^--optim_args weight_decay=0.1: .*--weight_decay is expected"):
        parse([f"--optim={name}", "--optim_args=weight_decay=0.1"])
