import dataclasses

import pytest
from transformers import TrainingArguments

from recipe.arguments import FreezeTrainingArguments
from recipe.command_line.parsing import build_parser, parse
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.training_fields import FIXED, FREE, HIDDEN, HONOURED, REFUSED

# Of each argument that works a value other than its default; those of one line are given to one run.
GIVEN = [
    "--gradient_accumulation_steps=2 --seed=7 --data_seed=8 --weight_decay=0.01 --adam_beta1=0.8 --adam_beta2=0.99 "
    "--adam_epsilon=1e-6 --max_grad_norm=5 --label_smoothing_factor=0.1 --metric_for_best_model=eval_loss "
    "--greater_is_better=false --learning_rate=1e-3 --warmup_steps=0.1 --lr_scheduler_type=cosine_with_min_lr "
    '--lr_scheduler_kwargs={"min_lr_rate":"1e-1"} --max_steps=6 --eval_strategy=steps --eval_steps=3 '
    "--save_strategy=steps --save_steps=3 --save_total_limit=1 --eval_on_start --eval_accumulation_steps=2 "
    "--per_device_eval_batch_size=7 --logging_first_step --log_level=error --log_level_replica=error "
    "--log_on_each_node=false --disable_tqdm=true --report_to tensorboard --run_name=x --project=x "
    "--activation_checkpointing --torch_empty_cache_steps=2 --dataloader_pin_memory=false --do_train",
    "--optim=sgd --optim_args=momentum=0.9,nesterov=true --num_train_epochs=0.5 --logging_strategy=no --bf16 "
    "--logging_nan_inf_filter --skip_memory_metrics=false --eval_delay=1 --load_best_model_at_end=false "
    "--save_on_each_node --dataloader_num_workers=1 --dataloader_persistent_workers --dataloader_prefetch_factor=3 "
    "--ddp_find_unused_parameters=true --ddp_bucket_cap_mb=5 --ddp_broadcast_buffers=false --ddp_static_graph=true "
    "--ddp_timeout=60 --local_rank=0 --trackio_space_id=x --trackio_bucket_id=x --trackio_static_space_id=x "
    "--hub_token=x --hub_private_repo=true --hub_model_id=x --hub_strategy=end --hub_revision=x",
]
# Theirs needs a GPU, a network or a launcher; `arguments` gives or a line above implies what else is missing.
ELSEWHERE = {"tf32", "fp16", "push_to_hub", "ddp_backend", "optim_target_modules", "full_determinism"}
ELSEWHERE |= {"do_eval", "do_predict", "gradient_checkpointing", "gradient_checkpointing_kwargs"}
ELSEWHERE |= {
    "activation_checkpointing_kwargs",
    "output_dir",
    "per_device_train_batch_size",
    "logging_steps",
    "use_cpu",
}

BAD = {  # of those refused, what is not the default
    "include_num_input_tokens_seen": "all",
    "include_for_metrics": "inputs",
    "eval_do_concat_batches": "false",
    "average_tokens_across_devices": "false",
    "dataloader_in_order": "false",
    "dataloader_multiprocessing_context": "spawn",
    "neftune_noise_alpha": "5",
    "liger_kernel_config": '{"rope": true}',
    "accelerator_config": '{"split_batches": true}',
    "fsdp_config": "{}",
    "debug": "underflow_overflow",
}


def test_the_table_knows_every_field_of_the_trainer_once():
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    shadowed = {"label_names"}  # the Trainer's are names of columns; the recipe's flag of this name names the labels
    parts = [FIXED, HONOURED, FREE, REFUSED.keys(), HIDDEN.keys(), shadowed]
    assert fields == set().union(*parts)
    assert len(fields) == sum(map(len, parts))


def test_what_is_hidden_is_no_flag_and_says_what_is():
    flags = build_parser()._option_string_actions
    for name in HIDDEN:
        assert f"--{name}" not in flags
        with pytest.raises(UserError, match=f"unknown argument '--{name}'; it is no flag here: "):
            parse([f"--{name}=x"])


def test_what_is_refused_is_refused_in_one_line_and_taken_at_its_default():
    defaults = {field.name: field.default for field in dataclasses.fields(FreezeTrainingArguments)}
    for name, reason in REFUSED.items():
        with pytest.raises(UserError) as error:
            parse([f"--{name}={BAD.get(name, 'true')}"])
        assert str(error.value).startswith(f"--{name} ")
        assert str(error.value).endswith(reason)
        if isinstance(defaults[name], bool):
            parse([f"--{name}={defaults[name]}"])


@pytest.mark.parametrize("words", ["--fsdp=", "--fsdp=off", "--deepspeed=no", "--debug=", "--neftune_noise_alpha=0"])
def test_what_is_refused_may_be_told_to_stay_off(words, tmp_path):
    (tmp_path / "run.yaml").write_text(words.removeprefix("--").replace("=", ": ") + "\ntorch_compile: off\n")
    assert parse([words]).training.fsdp == parse([str(tmp_path / "run.yaml")]).training.fsdp == parse([]).training.fsdp


@pytest.mark.parametrize("words", GIVEN)
def test_what_works_is_taken_and_runs(arguments, words):
    words = words.replace("--report_to tensorboard", "--report_to=tensorboard").split()
    if "--bf16" not in words:
        words.append('--activation_checkpointing_kwargs={"use_reentrant": false}')
    given = arguments(*words)
    report = train(given)
    assert report.plan.trainable > 0
    if "--bf16" in words:
        assert (given.training.optim, given.training.bf16) == ("sgd", True)
    else:
        assert given.training.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
        assert given.training.greater_is_better is False


def test_every_field_that_works_is_given_by_a_run_here_or_named_as_one_that_cannot_be():
    names = {word.lstrip("-").split("=")[0] for line in GIVEN for word in line.split() if word.startswith("--")}
    assert names | ELSEWHERE == FIXED | HONOURED | FREE
