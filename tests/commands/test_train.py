import json
import subprocess
import sys

import pytest
import torch

from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.train import prepare, train
from recipe.errors import UserError
from recipe.model.base_model import open_base
from recipe.model.loading import load_fine_tuned, load_model
from tests.utils import ROOT, make_pairs, write_jsonl


def test_a_run_leaves_a_whole_model_and_its_results(arguments, tmp_path, capsys):
    report = train(arguments("--num_train_epochs=2", "--prefix_cache_dtype=float32"))
    out = capsys.readouterr().out
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "modeling.py", "cls_layer.py", "tokenizer.json"),
        *("tokenizer_config.json",),
        *("all_results.json", "eval_results.json", "train_results.json", "trainer_state.json", "run.json"),
        *("checkpoint-9", "checkpoint-18"),
    }
    results = json.loads((folder / "all_results.json").read_text())
    assert {"eval_accuracy", "eval_loss", "eval_majority_baseline", "train_runtime", "train_loss", "epoch"} <= set(
        results
    )
    assert results["eval_accuracy"] == report.metrics["eval_accuracy"]
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "different", "1": "same"}
    assert config["frozen_prefix_depth"] == 2
    for words in ("frozen prefix: the embeddings and 2 of 4 layers", "train: 70 pairs", "epoch 1 ", "epoch 2 "):
        assert words in out
    metrics = evaluate(parse(["--do_eval", f"--model_name_or_path={folder}", "--use_cpu"]))
    assert metrics["eval_accuracy"] == results["eval_accuracy"]
    assert metrics["eval_loss"] == pytest.approx(results["eval_loss"], abs=1e-6)


def test_frozen_weights_are_bit_identical_and_the_rest_is_not(arguments, tmp_path):
    parsed = arguments()
    base = open_base(parsed.model)
    before = load_model(base).state_dict()
    train(parsed)
    saved = parse(["--do_eval", f"--model_name_or_path={tmp_path / 'run'}"])
    after = load_fine_tuned(saved)[0].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {
        name
        for name in before
        if name.startswith(("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1."))
    }
    # softmax does not see the key's bias, so its gradient may be zero to the last bit
    assert changed | {name for name in before if name.endswith("key.bias")} >= set(before) - frozen
    assert not changed & frozen


def test_what_is_trained_below_frozen_layers_is_told_to_cost_their_whole_backward(arguments, capsys):
    train(arguments("--freeze_embeddings=false", "--eval_strategy=no", "--max_steps=1"))
    assert "\nnote: the embeddings are trained under frozen layers, so backward crosses all" in capsys.readouterr().out


def test_a_validation_split_of_the_training_splits_rows_is_told(arguments, pairs_dir, capsys):
    told = "from {}; the training split's own rows, so that scores say nothing of other ones\n"
    prepare(arguments(f"--validation_file={pairs_dir / 'train.json'}"))
    assert told.format(pairs_dir / "train.json") in capsys.readouterr().out
    prepare(arguments())
    assert "own rows" not in capsys.readouterr().out


def test_accelerators_of_any_kind_are_counted(arguments, monkeypatch):
    told = []
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    monkeypatch.setattr("recipe.commands.train.describe_processes", lambda *args: told.append(args) or "")
    prepare(arguments())
    assert [gpus for _, _, _, gpus, _ in told] == [3]


def test_more_than_two_classes(arguments, tmp_path):
    names = ["矛盾", "无关", "同义"]
    rows = [{**row, "label": names[number % 3]} for number, row in enumerate(make_pairs(40))]
    for split in ("train", "dev"):
        write_jsonl(tmp_path / f"{split}.json", rows)
    report = train(arguments(f"--data_dir={tmp_path}", "--label_names", *names))
    assert report.metrics["eval_majority_baseline"] == 14 / 40
    assert json.loads((tmp_path / "run" / "config.json").read_text())["id2label"] == dict(
        zip("012", names, strict=True)
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max_length=100"], "--max_length 100: the model has 64 positions"),
        (["--freeze_layers=0-4"], "--freeze_layers 0-4: no layer 4; the model's layers are 0-3"),
        (["--freeze_modules", "nothing"], "--freeze_modules 'nothing': matches no parameter"),
        (["--model_name_or_path=/no/such/folder"], "--model_name_or_path /no/such/folder: no such folder"),
        (["--model_name_or_path=not/here", "--train_file=tests"], "--train_file tests: a folder, which"),
        (["--model_name_or_path=not/here", "--data_dir=Makefile"], "--data_dir Makefile: a file, which --train_file"),
    ],
)
def test_a_refused_run_leaves_nothing_behind(arguments, tmp_path, words, told):
    with pytest.raises(UserError) as error:
        train(arguments(*words))
    assert told in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_command_line_fails_in_one_line(tmp_path, tiny_model):
    words = [
        "--model_name_or_path",
        tiny_model,
        "--data_dir",
        tmp_path,
        "--output_dir",
        tmp_path / "out",
        "--max_length",
        64,
    ]
    command = [sys.executable, "run_freeze.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"run_freeze.py: error: --data_dir {tmp_path}: no train split in it")
    assert not (tmp_path / "out").exists()


def test_a_metric_that_the_validation_split_cannot_have_is_refused(arguments, tmp_path):
    dev = write_jsonl(tmp_path / "dev.json", [{**row, "label": "0"} for row in make_pairs(12)])
    with pytest.raises(UserError, match=r"^--metric_for_best_model eval_roc_auc: .*dev.json has no pair of label 1"):
        train(arguments("--metric_for_best_model=eval_roc_auc", f"--validation_file={dev}"))
    assert not (tmp_path / "run").exists()
