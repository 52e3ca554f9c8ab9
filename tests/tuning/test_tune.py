import shutil
import sqlite3

import optuna
import pytest
import yaml
from transformers import TrainerCallback

from recipe.command_line.parsing import parse
from recipe.commands.train import train
from recipe.errors import RunError, UserError
from recipe.tuning import tune as tune_module
from recipe.tuning.study import SEARCHED, STUDY, check_study, keeping, open_study, trials_done
from recipe.tuning.tune import _objective, tune
from tests.utils import history


def test_a_search_goes_on_and_its_best_settings_are_a_run(tiny_model, pairs_dir, tmp_path, capsys):
    given = {"model_name_or_path": tiny_model, "data_dir": pairs_dir, "max_length": 32, "use_cpu": "true"}
    given |= {"per_device_train_batch_size": 35, "freeze_layers": "0-2", "output_dir": tmp_path / "tune"}
    given |= {"prefix_cache_dir": tmp_path / "cache", "dropout": 0.2}
    words = [f"--{name}={value}" for name, value in given.items()]
    tune(words, 2)
    assert capsys.readouterr().out.count(" encoded in ") == 2  # train and validation, once for all trials
    best = tune(words, 3)
    study = optuna.load_study(study_name="freeze", storage=f"sqlite:///{tmp_path / 'tune' / 'study.db'}")
    assert len(study.trials) == 3
    assert best.keys() == set(SEARCHED)
    path = tmp_path / "tune" / "best.yaml"
    values = yaml.safe_load(path.read_text())
    assert {name: values[name] for name in SEARCHED} == study.best_params
    assert "searched on" in path.read_text()
    parsed = parse([str(path)])
    assert parsed.training.learning_rate == pytest.approx(study.best_params["learning_rate"])
    assert (parsed.freeze.freeze_layers, parsed.model.dropout) == ("0-2", 0.2)
    assert parsed.training.output_dir == str(tmp_path / "tune" / "best")
    with pytest.raises(UserError, match=r"study.db: a search with another --seed"):
        tune([*words, "--seed=1"], 4)
    assert "prefix cache" not in capsys.readouterr().out.rpartition("next ")[2]  # refused before anything is read
    assert tune(words, 3) == best
    path.write_text("learning_rate: 1.0e-5\n")
    with pytest.raises(UserError, match=r"best.yaml is there, which this command did not write and would replace"):
        tune(words, 3)
    with pytest.raises(UserError, match=r"--trials 0: a whole number of at least 1 is expected"):
        tune(words, 0)


def test_a_search_is_by_the_metric_that_is_given(tiny_model, pairs_dir, tmp_path, capsys):
    given = {"model_name_or_path": tiny_model, "data_dir": pairs_dir, "max_length": 32, "use_cpu": "true"}
    given |= {"per_device_train_batch_size": 35, "freeze_layers": "0-2", "output_dir": tmp_path / "tune"}
    given |= {"prefix_cache_dir": tmp_path / "cache", "metric_for_best_model": "eval_loss"}
    words = [f"--{name}={value}" for name, value in given.items()]
    tune(words, 2)
    study = optuna.load_study(study_name="freeze", storage=f"sqlite:///{tmp_path / 'tune' / 'study.db'}")
    assert study.best_value == min(trial.value for trial in study.trials)
    number = [trial.value for trial in study.trials].index(study.best_value) + 1
    assert f"best loss       {study.best_value:.4f} in trial {number} of 2\n" in capsys.readouterr().out
    assert (tmp_path / "tune" / "best.yaml").read_text().startswith(f"# Trial {number} of 2: loss ")
    assert f"loss {study.best_value:.4f} on the validation" in (tmp_path / "tune" / "best.yaml").read_text()


@pytest.mark.parametrize("schedule", ["constant", "reduce_lr_on_plateau"])
def test_no_warm_up_is_searched_for_where_the_schedule_has_none(tiny_model, pairs_dir, tmp_path, schedule):
    given = {"model_name_or_path": tiny_model, "data_dir": pairs_dir, "max_length": 32, "use_cpu": "true"}
    given |= {"per_device_train_batch_size": 35, "freeze_layers": "0-2", "output_dir": tmp_path / "tune"}
    given |= {"prefix_cache_dir": tmp_path / "cache", "lr_scheduler_type": schedule}
    assert tune([f"--{name}={value}" for name, value in given.items()], 1).keys() == {*SEARCHED} - {"warmup_steps"}
    assert parse([str(tmp_path / "tune" / "best.yaml")]).training.warmup_steps == 0


def test_a_trial_trains_by_what_it_tries_and_best_yaml_trains_the_same(tiny_model, pairs_dir, tmp_path, monkeypatch):
    given = {"model_name_or_path": tiny_model, "data_dir": pairs_dir, "max_length": 32, "use_cpu": "true"}
    given |= {"per_device_train_batch_size": 8, "freeze_layers": "0-2", "output_dir": tmp_path / "tune"}
    given |= {"prefix_cache_dir": tmp_path / "cache", "dropout": 0, "bf16": "false", "metric_for_best_model": "loss"}
    had = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            had.append({name: getattr(args, name) for name in SEARCHED})

    def build(*args):
        trainer = build_first(*args)
        trainer.add_callback(Watch())
        return trainer

    build_first = tune_module.build
    monkeypatch.setattr(tune_module, "build", build)
    tune([f"--{name}={value}" for name, value in given.items()], 2)
    study = optuna.load_study(study_name="freeze", storage=f"sqlite:///{tmp_path / 'tune' / 'study.db'}")
    assert had == [trial.params for trial in study.trials]
    assert all(0 < each["warmup_steps"] < 1 for each in had)
    train(parse([str(tmp_path / "tune" / "best.yaml"), "--model_card=false"]))
    assert history(tmp_path / "tune" / "best", "eval_loss")[-1] == study.best_value


def test_a_search_of_another_release_is_not_gone_on_with(arguments, tmp_path):
    open_study(tmp_path, arguments(), IDENTITY)
    with sqlite3.connect(tmp_path / STUDY) as database:
        database.execute("DELETE FROM study_user_attributes WHERE key = 'version'")
    with pytest.raises(UserError, match=r"study.db: a search with trials of another release, .*; name another --outp"):
        check_study(tmp_path, arguments())


def test_what_would_end_a_trial_or_score_another_split_is_refused(tiny_model, pairs_dir, tmp_path):
    words = [f"--model_name_or_path={tiny_model}", f"--data_dir={pairs_dir}", f"--output_dir={tmp_path / 'tune'}"]
    with pytest.raises(UserError, match=r"^--max_steps 4: a search tries numbers of epochs; leave it out$"):
        tune([*words, "--max_steps=4"], 2)
    with pytest.raises(
        UserError, match=r"^--do_eval: these runs go on by themselves, scored on the validation split; leave"
    ):
        tune([*words, "--do_eval"], 2)
    assert not (tmp_path / "tune").exists()


IDENTITY = {"data": {"train": "a"}, "weights": {"frozen": "b"}, "config": {"hidden_act": "gelu"}, "labels": ["0", "1"]}
IDENTITY |= {"tokenizer": "c", "tokenizer_options": {}, "arithmetic": {"mixed_precision": "no"}}


def test_a_killed_search_goes_on(arguments, tmp_path):
    study = open_study(tmp_path, arguments(), IDENTITY)
    for state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL):
        study.tell(study.ask(), 0.5 if state.name == "COMPLETE" else None, state=state)
    study.ask()  # killed in it
    (tmp_path / f".staging.{'a1' * 16}.partial").mkdir()  # or where it had begun
    again = open_study(tmp_path, arguments("--learning_rate=0.01"), IDENTITY)
    assert [trial.state.name for trial in again.trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert trials_done(again) == 2  # neither a killed trial nor one that Ctrl-C stopped is done
    assert [path.name for path in tmp_path.iterdir()] == [STUDY]
    precise = {**IDENTITY, "arithmetic": {"mixed_precision": "bf16"}}
    with pytest.raises(UserError, match=r"study.db: a search with mixed precision \(--bf16, .*\) no instead of bf16"):
        open_study(tmp_path, arguments(), precise)
    other = {**IDENTITY, "config": {"hidden_act": "relu"}}
    with pytest.raises(UserError, match=r"study.db: a search with other data, weights or settings of the model"):
        open_study(tmp_path, arguments(), other)


def spoil_text(path):
    path.write_text("no database")


def spoil_half(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def spoil_tables(path):
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE trials")


def spoil_attributes(path):
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE study_user_attributes")


def spoil_attribute(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE study_user_attributes SET value_json = '[3]'")


def spoil_study(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE studies SET study_name = 'other'")


def spoil_link(path):
    shutil.move(path, path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def spoil_folder(path):
    path.unlink()
    path.mkdir()


SPOILT = [spoil_text, spoil_half, spoil_attributes, spoil_attribute, spoil_study, spoil_link, spoil_folder]


@pytest.mark.parametrize("spoil", SPOILT)
def test_what_is_no_study_is_named_in_one_line_and_left_as_it_is(arguments, tmp_path, spoil):
    open_study(tmp_path, arguments(), IDENTITY)
    spoil(tmp_path / STUDY)
    with pytest.raises(UserError, match=r"study.db: not a search that can be gone on with \(") as error:
        open_study(tmp_path, arguments(), IDENTITY)
    assert "\n" not in str(error.value)
    assert (tmp_path / STUDY).exists()


def test_a_stopped_trial_prints_no_traceback(arguments, tmp_path, capfd):
    def stopped(trial):
        raise KeyboardInterrupt

    study = open_study(tmp_path, arguments(), IDENTITY)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(stopped)
    assert trials_done(study) == 0
    assert capfd.readouterr().err == ""


def test_a_study_that_cannot_be_written_is_one_line(arguments, tmp_path):
    study = open_study(tmp_path, arguments(), IDENTITY)
    spoil_tables(tmp_path / STUDY)
    with (
        pytest.raises(RunError, match=r"study.db: cannot be written: no such table: trials; the same command goes on$"),
        keeping(tmp_path / STUDY),
    ):
        study.ask()


@pytest.mark.parametrize(("score", "state"), [(0.5, "COMPLETE"), (None, "FAIL")])
def test_a_trial_whose_score_is_undefined_fails_and_is_not_the_best(arguments, score, state):
    study = optuna.create_study(direction="maximize")
    metrics = {"eval_pearson": score}
    args = arguments("--task_type=regression").training
    study.optimize(lambda trial: trial.report(found := _objective(metrics, args), 1) or found, n_trials=1)
    assert study.trials[0].state.name == state
