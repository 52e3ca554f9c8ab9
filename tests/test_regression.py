"""Scores in place of classes, from a file to an answer: --task_type regression."""

import json
import os
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import pipeline

from recipe.checkpoints.manifest import open_checkpoint
from recipe.checkpoints.restoring import open_resumable
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.merge_checkpoint import main as merge
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.evaluation.regression import correlation
from recipe.file_names import FIGURES
from recipe.studies.audit import audit
from recipe.studies.sweep import Comparison, sweep
from tests.hub_server import hub
from tests.utils import ROOT, history, make_pairs, make_scored, outcome, write_jsonl


@pytest.fixture
def scored(tmp_path):
    """A folder with train (120 pairs), dev (40) and test (20, without scores)."""
    folder = tmp_path / "scored"
    folder.mkdir()
    write_jsonl(folder / "train.json", make_scored(120, 1))
    write_jsonl(folder / "dev.json", make_scored(40, 2))
    write_jsonl(folder / "test.json", [{**row, "label": None} for row in make_scored(20, 3)])
    return folder


@pytest.fixture
def regression(arguments, scored):
    """A function: extra words -> the arguments of a small run on scores."""
    return lambda *words: arguments("--task_type=regression", f"--data_dir={scored}", *words)


LEARNING = ("--num_train_epochs=12", "--learning_rate=3e-3", "--model_card=true")


def words(run, *more):
    return parse([f"--model_name_or_path={run}", "--use_cpu", *more])


def lines(run):
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()]


def test_a_run_learns_scores_and_what_it_says_is_about_scores(regression, tmp_path, capsys):
    train(regression(*LEARNING, "--prefix_cache=on"))
    run, told = tmp_path / "run", capsys.readouterr().out
    results = json.loads((run / "all_results.json").read_text())
    assert results["eval_pearson"] > 0.5
    assert results["eval_pearson"] == pytest.approx(max(history(run, "eval_pearson")))
    assert f"best Pearson    {results['eval_pearson']:.4f} after epoch " in told
    assert "classifier: new; labels score\n" in told
    assert f"Pearson {results['eval_pearson']:.4f}  Spearman {results['eval_spearman']:.4f}\n" in told
    train(regression(*LEARNING, "--prefix_cache=on"))
    assert f"this run has finished with Pearson {results['eval_pearson']:.4f};" in capsys.readouterr().out
    metrics = evaluate(words(run, "--do_eval", "--against", str(run)))
    predict(words(run, "--do_predict", "--eval_split=validation"))
    told += capsys.readouterr().out
    found, rows = lines(run), make_scored(40, 2)
    assert [line["label"] for line in found] == [row["label"] for row in rows]
    assert all(line.keys() == {"sentence1", "sentence2", "label", "prediction"} for line in found)
    answers, labels = (np.array([line[key] for line in found]) for key in ("prediction", "label"))
    assert metrics["eval_pearson"] == pytest.approx(results["eval_pearson"], abs=1e-6)
    assert metrics["eval_pearson"] == pytest.approx(correlation(answers, labels), abs=1e-3)
    assert metrics["eval_mse"] == pytest.approx(np.square(answers - labels).mean(), abs=1e-2)
    assert metrics["eval_compared"]["difference"] == 0
    card = (run / "README.md").read_text("utf-8")
    for word in ("accura", "majority", "probabilit", "confus", "McNemar", "classes", "class weights"):
        assert word not in told + card.replace("text-classification", ""), word


def test_the_test_split_without_scores_is_answered_and_made_no_submission(regression, tmp_path, capsys):
    train(regression("--prefix_cache=off"))
    predict(words(tmp_path / "run", "--do_predict"))
    predict(words(tmp_path / "run", "--do_predict"))  # which writes over its own
    assert [line["label"] for line in lines(tmp_path / "run")] == [None] * 20
    assert "submission" not in capsys.readouterr().out
    assert not list((tmp_path / "run").glob("*_predict.json"))
    with pytest.raises(UserError, match="has pairs without a label"):
        evaluate(words(tmp_path / "run", "--do_eval", "--eval_split=test"))


def test_the_card_has_the_figure_and_the_errors_of_scores(regression, tmp_path):
    train(regression(*LEARNING))
    run = tmp_path / "run"
    card, results = ModelCard.load(run / "README.md"), json.loads((run / "all_results.json").read_text())
    found = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert found == {"pearsonr": round(results["eval_pearson"], 4), "spearmanr": round(results["eval_spearman"], 4)}
    assert [name for name in FIGURES if (run / name).exists()] == ["learning_curve.png", "scatter.png"]
    assert all(f"]({name})" in card.text for name in ("learning_curve.png", "scatter.png"))
    assert "## The 20 largest errors" in card.text
    (run / "scatter.png").unlink()
    train(regression(*LEARNING))
    assert (run / "scatter.png").stat().st_size
    row = make_scored(1, 2)[0]
    predict(words(run, "--do_predict", "--eval_split=validation"))
    answer = pipeline("text-classification", str(run), trust_remote_code=True)
    said = answer({"text": row["sentence1"], "text_pair": row["sentence2"]})
    assert said == {"label": "score", "score": pytest.approx(lines(run)[0]["prediction"], abs=1e-5)}


def strict_json(folder):
    """Every JSON file of a folder, read as other languages read it: NaN and Infinity are none."""

    def refuse(constant):
        raise ValueError(constant)

    return {path.name: json.loads(path.read_text(), parse_constant=refuse) for path in sorted(folder.glob("*.json"))}


def test_a_correlation_with_constant_labels_is_undefined_wherever_it_is_told(regression, scored, tmp_path, capsys):
    write_jsonl(scored / "dev.json", [{**row, "label": 2.5} for row in make_scored(40, 2)])
    told = r"^--metric_for_best_model pearson: every label of .*dev.json is 2.5, with which nothing correlates; mse"
    with pytest.raises(UserError, match=told):
        train(regression())
    run, words_ = tmp_path / "run", ("--metric_for_best_model=mse", "--model_card=true", "--prefix_cache=off")
    assert not run.exists()
    train(regression(*words_))
    train(regression(*words_))
    evaluate(words(run, "--do_eval", "--against", str(run)))
    out = capsys.readouterr().out
    assert "Pearson undefined  Spearman undefined\n" in out
    assert "undefined after epoch 1, the best by mse (Spearman undefined): its scores or the labels are const" in out
    assert "this run has finished with Pearson undefined;" in out
    assert "Pearson         undefined  (the scores or the labels are constant)\nSpearman        undefined\n" in out
    assert "the mean of both has Pearson undefined\n" in out
    assert f"against         {run}: Pearson undefined, MSE " in out
    card = ModelCard.load(run / "README.md")
    assert card.data.eval_results is None
    assert "so that a correlation of the two is undefined; on average they are " in card.text
    assert "| Pearson's correlation | undefined |\n| Spearman's correlation | undefined |\n" in card.text
    found = strict_json(run)
    assert {found[name]["eval_pearson"] for name in ("all_results.json", "eval_results.json")} == {None}
    assert found["eval_results.json"]["eval_compared"]["pearson"] is None
    logged = [entry["eval_pearson"] for entry in found["trainer_state.json"]["log_history"] if "eval_pearson" in entry]
    assert logged == [None]
    assert open_checkpoint(next(iter(checkpoint_folders(run)))).state()["log_history"]  # from which a run goes on


def test_no_answers_with_an_undefined_score_are_the_best(regression, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recipe.evaluation.regression.correlation", lambda *_, **__: None)  # as of constant answers
    run = tmp_path / "run"
    train(regression("--prefix_cache=off", "--num_train_epochs=2"))
    assert "last Pearson    undefined after epoch 2 (Spearman undefined)" in capsys.readouterr().out
    assert strict_json(run)["run.json"]["results"]["best"] is False
    for checkpoint in checkpoint_folders(run):  # from which a run goes on
        assert strict_json(checkpoint)["trainer_state.json"]["best_metric"] is None
        assert open_resumable(checkpoint).step


SIX = ("--num_train_epochs=2", "--max_train_samples=37", "--save_strategy=steps", "--save_steps=3", "--eval_steps=3")


@pytest.mark.parametrize("more", [["--prefix_cache=on"], ["--prefix_cache=off", "--no_streaming"]])
def test_a_stopped_run_goes_on_to_the_same_bytes_and_only_with_scores(regression, scored, tmp_path, more):
    more = [*SIX, "--save_total_limit=9", *more]
    train(regression(*more, f"--output_dir={tmp_path / 'whole' / 'run'}"))
    resumed = tmp_path / "resumed" / "run"
    for checkpoint in checkpoint_folders(tmp_path / "whole" / "run")[2:]:
        shutil.copytree(checkpoint, resumed / checkpoint.name)
    for split, rows in (("train", make_pairs(120)), ("dev", make_pairs(40))):
        write_jsonl(scored / f"{split}.json", rows)
    with pytest.raises(UserError, match=r"--task_type classification: it was regression in .*checkpoint-6"):
        train(regression(*more, f"--output_dir={resumed}", "--task_type=classification"))
    write_jsonl(scored / "train.json", make_scored(120, 1))
    write_jsonl(scored / "dev.json", make_scored(40, 2))
    train(regression(*more, f"--output_dir={resumed}"))
    assert outcome(tmp_path / "resumed")[0] == outcome(tmp_path / "whole")[0]


@pytest.mark.parametrize("cut", [["--per_device_train_batch_size=4", "--gradient_accumulation_steps=3"], []])
def test_cached_and_uncached_runs_have_the_same_losses_however_a_step_is_cut(regression, tmp_path, cut):
    words = ["--per_device_train_batch_size=12", *cut, "--num_train_epochs=2", "--dropout=0", "--max_train_samples=37"]
    words.append("--prefix_cache_dtype=float32")
    found = []
    for cache in ("on", "off"):
        train(regression(*words, f"--prefix_cache={cache}", f"--output_dir={tmp_path / cache}"))
        found.append([*history(tmp_path / cache, "loss"), *history(tmp_path / cache, "eval_loss")])
    whole = regression(*words[:1], *words[-4:], "--prefix_cache=off", f"--output_dir={tmp_path / 'whole'}")
    train(whole)
    found.append([*history(tmp_path / "whole", "loss"), *history(tmp_path / "whole", "eval_loss")])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0] == pytest.approx(found[2], rel=1e-4)


def test_a_score_is_not_rounded_to_bfloat16(regression, tmp_path):
    train(regression("--bf16=true", "--prefix_cache=off"))
    predict(words(tmp_path / "run", "--do_predict", "--bf16=true"))
    found = torch.tensor([line["prediction"] for line in lines(tmp_path / "run")])
    assert not torch.equal(found, found.bfloat16().float())


def test_a_checkpoint_becomes_a_whole_model(regression, tmp_path, monkeypatch):
    train(regression("--prefix_cache=off"))
    run, whole = tmp_path / "run", tmp_path / "merged"
    monkeypatch.setattr("sys.argv", ["merge", str(run / "checkpoint-15"), str(whole)])
    merge()
    assert (whole / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert json.loads((whole / "config.json").read_text())["problem_type"] == "regression"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--label_names", "a", "b"], "--label_names a b with --task_type regression: a score has no classes"),
        (["--class_weights=1,2"], "--class_weights 1,2 with --task_type regression"),
        (["--label_smoothing_factor=0.1"], "--label_smoothing_factor 0.1 with --task_type regression"),
        (
            ["--metric_for_best_model=accuracy"],
            "--metric_for_best_model accuracy with --task_type regression: one of pearson, spearman, mse, mae, loss",
        ),
    ],
)
def test_what_is_about_classes_is_refused(regression, given, reason):
    with pytest.raises(UserError) as error:
        regression(*given)
    assert str(error.value).startswith(reason)


def test_a_metric_of_scores_is_refused_for_classes_and_chooses_for_scores(arguments, regression):
    with pytest.raises(UserError, match="--metric_for_best_model mse with --task_type classification: one of accuracy"):
        arguments("--metric_for_best_model=mse")
    for name, greater in (("pearson", True), ("spearman", True), ("mse", False), ("mae", False), ("loss", False)):
        args = regression(f"--metric_for_best_model={name}").training
        assert (args.metric_for_best_model, args.greater_is_better) == (name, greater)
    args = regression().training
    assert (args.metric_for_best_model, args.greater_is_better) == ("pearson", True)


def test_a_model_of_classes_is_not_scored_on_scores_nor_the_other_way_round(regression, arguments, tmp_path, pairs_dir):
    train(regression("--prefix_cache=off"))
    data = [f"--data_dir={pairs_dir}", "--task_type=classification"]
    with pytest.raises(UserError, match=r"its labels are score, those of .* different, same"):
        evaluate(words(tmp_path / "run", "--do_eval", *data))
    train(arguments("--prefix_cache=off", f"--output_dir={tmp_path / 'classes'}"))
    with pytest.raises(UserError, match=r"--against .*: its labels are different, same, those of .* score"):
        evaluate(words(tmp_path / "run", "--do_eval", f"--against={tmp_path / 'classes'}"))


def test_studies_of_right_answers_refuse_scores_before_anything_is_trained(regression, scored, tiny_model, tmp_path):
    given = [f"--model_name_or_path={tiny_model}", f"--data_dir={scored}", "--use_cpu", "--max_length=32"]
    given += ["--task_type=regression", f"--output_dir={tmp_path / 'study'}"]
    with pytest.raises(UserError, match="--task_type regression: a sweep compares accuracies"):
        sweep(given, Comparison(depths=[1, 2]))
    pytest.importorskip("cleanlab")
    with pytest.raises(UserError, match="--task_type regression: an audit doubts classes"):
        audit(given, 3)
    assert not (tmp_path / "study").exists()


def test_scores_of_single_sentences_on_the_hub_are_trained_on_and_answered(tmp_path, tiny_model):
    published, run = tmp_path / "published", tmp_path / "run"
    (published / "data").mkdir(parents=True)
    kinds = {"sentence": datasets.Value("string"), "label": datasets.Value("float32")}  # as GLUE has scores
    for split, count in (("train", 40), ("validation", 20)):
        rows = [{"sentence": row["sentence1"], "label": row["label"]} for row in make_scored(count, count)]
        table = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
        table.to_parquet(published / "data" / f"{split}-00000-of-00001.parquet")
    given = [f"--model_name_or_path={tiny_model}", "--max_length=32", "--use_cpu", f"--output_dir={run}"]
    given += ["--task_type=regression", "--dataset_name=some/scores", "--dataset_config_name=", "--no_streaming"]
    given += [
        "--text_column_names=sentence",
        "--do_train",
        "--do_predict",
        "--eval_split=validation",
        "--freeze_layers=0-1",
    ]
    with hub({"datasets/some/scores": published}) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, str(ROOT / "run_freeze.py"), *given]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    assert [line["label"] for line in lines(run)] == [row["label"] for row in make_scored(20, 20)]
    assert "score Chinese sentences with" in (run / "README.md").read_text()
