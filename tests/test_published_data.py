"""Published data sets are trained on, scored and answered by flags alone, no file touched."""

import json
import os
import subprocess
import sys
from collections import Counter

import datasets
import pytest

from recipe.command_line.parsing import parse
from recipe.data.opening import open_split
from recipe.data.splits import iterate
from recipe.run import run
from tests.hub_server import hub
from tests.published_data import FORMS, NLI, rows_of_split, write_form
from tests.utils import ROOT, make_pairs

TINY = ["--max_length=32", "--use_cpu", "--bf16=false", "--num_train_epochs=1", "--per_device_train_batch_size=8"]


@pytest.fixture
def tiny(tiny_model, tmp_path):
    """The flags of a small run into tmp_path/run."""
    where = [f"--model_name_or_path={tiny_model}", f"--output_dir={tmp_path / 'run'}"]
    return [*TINY, *where, f"--prefix_cache_dir={tmp_path / 'cache'}", "--freeze_layers=0-1"]


def answers(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_read_trained_on_and_scored(tmp_path, tiny, name):
    form = FORMS[name]
    flags = write_form(tmp_path / "data", form)
    before = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    words = [*tiny, *flags, "--do_train", "--do_eval", "--do_predict", "--eval_split=validation"]
    run(parse(words))
    run_folder = tmp_path / "run"
    for split, stem in (("train", "train"), ("validation", "dev")):
        rows = rows_of_split(stem, form.labels)
        opened = open_split(parse(words).data, split)
        labels = [pair["label"] for pair in iterate(opened.pairs)]
        counts = Counter(each if form.scores else opened.label_names[each] for each in labels)
        expected = Counter(float(label) if form.scores else label for *_, label in rows)
        assert (opened.rows, counts) == (len(rows), expected)
    found, rows = answers(run_folder), rows_of_split("dev", form.labels)
    keys = ("sentence1",) if form.single else ("sentence1", "sentence2")
    texts = [[line[key].replace('"', "").removesuffix(" 吗") for key in keys] for line in found]
    assert texts == [[a, b][: len(keys)] for _, a, b, _ in rows]
    assert all(("sentence2" in line) != form.single for line in found)
    said = {"0": "different", "1": "same"} if form.labels == ("0", "1") else {}
    expected = [float(label) if form.scores else said.get(label, label) for *_, label in rows]
    assert [line["label"] for line in found] == expected
    results = json.loads((run_folder / "eval_results.json").read_text())
    if form.scores:
        errors = [line["label"] - line["prediction"] for line in found]
        assert sum(each * each for each in errors) / len(found) == pytest.approx(results["eval_mse"], rel=1e-3)
    else:
        assert sum(line["label"] == line["prediction"] for line in found) / len(found) == results["eval_accuracy"]
    predict_again = [f"--model_name_or_path={run_folder}", "--use_cpu", "--do_predict"]
    run(parse([*predict_again, "--eval_split=validation"]))  # what the run was told of its data, it still knows
    assert answers(run_folder) == found
    if form.files[2] is not None:
        run(parse([*predict_again, "--eval_split=test"]))
        assert len(answers(run_folder)) == len(rows_of_split("test", form.labels))
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


@pytest.mark.parametrize(("name", "form"), [("lcqmc", "lcqmc"), ("bq", "bq"), ("bustm", "bustm"), ("stsb", "cnsd-sts")])
def test_a_configuration_of_files_reads_them_where_it_says(tmp_path, monkeypatch, tiny, name, form):
    write_form(tmp_path / "data" / name, FORMS[form])
    monkeypatch.chdir(tmp_path)
    run(parse([str(ROOT / "configs" / f"{name}.yaml"), *tiny, "--do_train", "--do_predict"]))
    assert len(answers(tmp_path / "run")) == 8
    assert (tmp_path / "run" / f"{name}_predict.json").exists() == (name in ("bq", "bustm"))


@pytest.mark.parametrize(
    ("name", "dataset", "folder", "classes", "labels", "numbers"),
    [
        ("pawsx", "google-research-datasets/paws-x", "zh", ["0", "1"], ["different", "same"], [0, 1, 1]),
        ("ocnli", "clue/clue", "ocnli", NLI, NLI, [0, 1, 2, -1]),
    ],
)
def test_a_configuration_of_the_hub_reads_it(tmp_path, tiny, name, dataset, folder, classes, labels, numbers):
    text = datasets.Value("string")
    features = {"sentence1": text, "sentence2": text, "label": datasets.ClassLabel(names=list(classes))}
    published = tmp_path / "published"
    (published / folder).mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [{**row, "label": numbers[i % len(numbers)]} for i, row in enumerate(make_pairs(12))]
        table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        table.to_parquet(published / folder / f"{split}-00000-of-00001.parquet")
    paths = "".join(f"  - {{split: {split}, path: {folder}/{split}-*}}\n" for split in ("train", "validation"))
    (published / "README.md").write_text(f"---\nconfigs:\n- config_name: {folder}\n  data_files:\n{paths}---\n")
    words = [str(ROOT / "run_freeze.py"), str(ROOT / "configs" / f"{name}.yaml"), *tiny]
    with hub({f"datasets/{dataset}": published}) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        told = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    kept = 12 - 12 // len(numbers) * (-1 in numbers)
    assert f"train: {kept} pairs from {dataset} {folder} train" in told.stdout
    assert f"labels {', '.join(labels)}\n" in told.stdout
