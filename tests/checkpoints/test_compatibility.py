import json

import pytest

from recipe.checkpoints.identity import default_of
from recipe.checkpoints.manifest import open_checkpoint, seal
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.training.trainer import FreezeTrainer
from tests.utils import snapshot

REFUSED = [
    ("--freeze_layers=0-2", "--freeze_layers 0-2: it was 0-1 in "),
    ("--freeze_embeddings=false", "--freeze_embeddings False: it was (not given) in "),
    ("--freeze_modules=layer.2.output", "--freeze_modules layer.2.output: it was (not given) in "),
    ("--frozen_dropout=true", "--frozen_dropout True: it was False in "),
    ("--seed=7", "--seed 7: it was 42 in "),
    ("--data_seed=7", "--data_seed 7: it was (not given) in "),
    ("--per_device_train_batch_size=4", "--per_device_train_batch_size 4: it was 8 in "),
    ("--gradient_accumulation_steps=2", "--gradient_accumulation_steps 2: it was 1 in "),
    ("--max_length=24", "--max_length 24: it was 32 in "),
    ("--shuffle_buffer_size=9", "--shuffle_buffer_size 9: it was 10000 in "),
    ("--max_train_samples=60", "--max_train_samples 60: it was (not given) in "),
    ("--dropout=0.3", "--dropout 0.3: it was (not given) in "),
    ("--dtype=bfloat16", "--dtype bfloat16: it was float32 in "),
    ("--attn_implementation=eager", "--attn_implementation eager: it was sdpa in "),
    ("--weight_decay=0.1", "--weight_decay 0.1: it was 0.0 in "),
    ("--adam_beta2=0.9", "--adam_beta2 0.9: it was 0.999 in "),
    ("--optim=sgd", "--optim "),
    ("--max_grad_norm=5", "--max_grad_norm 5.0: it was 1.0 in "),
    ("--label_smoothing_factor=0.1", "--label_smoothing_factor 0.1: it was 0.0 in "),
    ("--early_stopping_patience=3", "--early_stopping_patience 3: it was (not given) in "),
    ("--metric_for_best_model=loss", "--metric_for_best_model loss: it was accuracy in "),
    ("--prefix_cache=on", "prefix cache in float16, computed in "),
    ("--num_train_epochs=1", "--num_train_epochs 1.0: it was 2.0 in "),
]


@pytest.mark.parametrize(("word", "told"), REFUSED)
def test_what_a_resume_must_not_change_is_refused(begun, word, told):
    folder, again = begun
    before = snapshot(folder)
    with pytest.raises(UserError) as error:
        again(word)
    assert str(error.value).startswith(told)
    assert "--resume never" in str(error.value)
    assert str(folder / "checkpoint-9") in str(error.value)
    assert snapshot(folder) == before


def test_a_checkpoint_from_before_a_flag_goes_on_at_that_flags_default(begun):
    folder, again = begun
    path = folder / "checkpoint-9"
    manifest = open_checkpoint(path).manifest
    content = {key: value for key, value in manifest.items() if key not in ("files", "sha256")}
    given = content["identity"]["arguments"]
    for name in ("data.csv_quoting", "training.label_smoothing_factor"):
        assert given.pop(name) == default_of(name)
    given["training.a_flag_that_is_gone"] = 7
    seal(path, content)
    with pytest.raises(UserError, match=r"--label_smoothing_factor 0.1: it was 0.0 in "):
        again("--label_smoothing_factor=0.1")
    again()


@pytest.mark.parametrize(
    ("word", "rate"),
    [
        ("--learning_rate=0.0004", 0.0004 * 9 / 18),
        ("--num_train_epochs=3", 0.0001 * 18 / 27),
        ("--lr_scheduler_type=constant", 0.0001),
    ],
)
def test_rate_epochs_and_schedule_are_honoured_from_the_next_step_on(begun, monkeypatch, capsys, word, rate):
    folder, again = begun
    stepped, used = FreezeTrainer.training_step, []

    def step(trainer, *args):
        used.append(trainer.optimizer.param_groups[0]["lr"])
        return stepped(trainer, *args)

    monkeypatch.setattr(FreezeTrainer, "training_step", step)
    again(word, "--logging_steps=1")
    assert used[0] == pytest.approx(rate)  # and not only in the log
    name, value = word[2:].split("=")
    assert f"note: --{name} {value}" in capsys.readouterr().out.replace("3.0", "3")
    state = json.loads((checkpoint_folders(folder)[0] / "trainer_state.json").read_text())
    first = next(entry for entry in state["log_history"] if entry["step"] == 10)
    assert first["learning_rate"] == pytest.approx(rate)


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        ("reduce_lr_on_plateau", "linear", "--lr_scheduler_type linear: it was reduce_lr_on_plateau in "),
        ("linear", "greedy", "--lr_scheduler_type greedy: it was linear in "),
        ("greedy", "greedy --learning_rate=1e-3", "--learning_rate 0.001: it was 0.0001 in "),
    ],
)
def test_a_schedule_by_metric_neither_changes_nor_is_changed_for_another(arguments, tmp_path, first, then, told):
    train(arguments("--prefix_cache=off", f"--lr_scheduler_type={first}"))
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as error:
        train(arguments("--prefix_cache=off", "--num_train_epochs=2", *f"--lr_scheduler_type={then}".split()))
    assert str(error.value).startswith(told)
    assert str(error.value).endswith("; give the old one, name another --output_dir, or start over: --resume never")
    assert snapshot(tmp_path) == before


def test_what_a_resume_changed_stands_in_the_runs_record_and_card(begun, monkeypatch):
    folder, again = begun
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")  # other arithmetic, as another machine's would be
    again("--learning_rate=0.0004", "--model_card=true")
    (line,) = json.loads((folder / "run.json").read_text())["changed"]
    assert line == "behind step 9: --learning_rate 0.0004 (was 0.0001), MKL_CBWR COMPATIBLE (was not set)"
    assert line in (folder / "README.md").read_text()
    again("--learning_rate=0.0004", "--num_train_epochs=3")
    assert json.loads((folder / "run.json").read_text())["changed"] == [
        line,
        "behind step 18: --num_train_epochs 3.0 (was 2.0)",
    ]
