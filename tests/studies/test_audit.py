import json
import os
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest

from recipe.errors import UserError
from recipe.studies import audit as audit_module
from recipe.studies.audit import assign_folds, audit
from recipe.studies.planning import plan
from recipe.studies.settings import parse_over
from tests.hub_server import hub
from tests.utils import ROOT, write_jsonl

TOPICS = ("花呗还款", "借呗提额", "余额提现", "账单分期", "芝麻信用", "红包退回")


def make_rows(count):
    """Pairs that are the same where their topics are, which a tiny BERT learns; every tenth label is wrong."""
    draws, rows = np.random.default_rng(0), []
    for number in range(count):
        one, other = (TOPICS[draws.integers(6)] for _ in range(2)) if number % 2 else [TOPICS[draws.integers(6)]] * 2
        label = int(one == other)
        rows.append({"sentence1": f"{one}{number}", "sentence2": f"{other}吗", "label": str(label), "id": number})
    return rows


@pytest.fixture
def words(tiny_model, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", make_rows(60))
    given = {"model_name_or_path": tiny_model, "train_file": tmp_path / "train.jsonl", "max_length": 32}
    given |= {"per_device_train_batch_size": 16, "num_train_epochs": 1, "output_dir": tmp_path / "audit"}
    given |= {"prefix_cache_dir": tmp_path / "cache", "bf16": "false", "use_cpu": "true", "freeze_layers": "0-1"}
    return [f"--{name}={value}" for name, value in given.items()]


def test_each_pair_is_answered_by_a_model_that_did_not_see_it(words, tmp_path, monkeypatch, capsys):
    trained, real = [], audit_module.train

    def train(arguments):
        files = (arguments.data.train_file, arguments.data.validation_file)
        trained.append([{json.loads(line)["id"] for line in open(path)} for path in files])  # noqa: SIM115
        if len(trained) == 2 and stops:
            stops.clear()
            raise KeyboardInterrupt
        return real(arguments)

    stops = {"stop"}
    monkeypatch.setattr(audit_module, "train", train)
    with pytest.raises(KeyboardInterrupt):
        audit(words, 3)
    found = audit(words, 3, [0.1])
    assert len(trained) == 4  # the fold that was stopped, once more
    del trained[1]
    assert all(seen.isdisjoint(held) and seen | held == set(range(60)) for seen, held in trained)
    assert set().union(*(held for _, held in trained)) == set(range(60))
    assert found.probabilities.shape == (60, 2)
    assert found.probabilities.sum(1) == pytest.approx(1, abs=1e-6)
    folder = tmp_path / "audit"
    doubtful = [json.loads(line) for line in (folder / "doubtful.jsonl").read_text().splitlines()]
    assert [row["number"] for row in doubtful] == [place + 1 for place in found.places]
    assert all(row["id"] == row["number"] - 1 and row["prediction"] != row["label"] for row in doubtful)
    kept = [json.loads(line)["id"] for line in (folder / "train-without-10-percent.jsonl").read_text().splitlines()]
    trust = found.probabilities[np.arange(60), found.labels]
    assert kept == sorted(np.argsort(trust, kind="stable")[6:])
    assert {path.name for path in folder.iterdir()} == {
        *("audit.log", "audit.md", "doubtful.jsonl", "folds", "train-without-10-percent.jsonl"),
    }
    assert "of 60 labels are doubtful" in capsys.readouterr().out
    again = audit(words, 3)
    assert len(trained) == 3
    assert again.places.tolist() == found.places.tolist()


def test_an_audit_that_is_stopped_in_its_first_fold_goes_on(words, tmp_path, monkeypatch):
    real, folder = audit_module.train, tmp_path / "audit"

    def stop(arguments):
        assert {path.suffix for path in folder.iterdir()} == {"", ".jsonl", ".log"}
        raise KeyboardInterrupt

    monkeypatch.setattr(audit_module, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        audit(words, 2)
    assert {path.name for path in folder.iterdir()} == {"audit.log", "folds"}
    monkeypatch.setattr(audit_module, "train", real)
    audit(words, 2)
    assert {path.name for path in folder.iterdir()} == {"audit.log", "audit.md", "doubtful.jsonl", "folds"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--class_weights=1", r"^--class_weights 1: 'balanced', or a number"),
        ("--max_length=100", r"^--max_length 100: the model has 64 positions"),
        ("--freeze_layers=0-99", r"^--freeze_layers 0-99: "),
        ("--freeze_modules=zzz", r"^--freeze_modules 'zzz': matches no parameter"),
        ("--num_tails=2 --freeze_embeddings=false", r"^--num_tails 2: the embeddings are trained"),
        ("--prefix_cache=on --freeze_layers=none", r"^--prefix_cache on: there is no frozen prefix"),
        ("--resume=checkpoint-1", r"^--resume: these runs go on by themselves"),
    ],
)
def test_what_a_folds_training_would_refuse_is_refused_before_anything_is_written(words, tmp_path, more, says):
    with pytest.raises(UserError, match=says):
        audit([*words, *more.split()], 2)
    assert not (tmp_path / "audit").exists()


def test_weights_that_cannot_be_read_leave_no_folder(words, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"^--model_name_or_path "):
        audit([*words, f"--model_name_or_path={tmp_path / 'model'}"], 2)
    assert not (tmp_path / "audit").exists()


def test_labels_that_answers_speak_against_are_doubtful(words, tmp_path, monkeypatch, capsys):
    """With answers that know better, exactly the wrong labels are named, the surest first."""
    rows = make_rows(60)
    truth = np.array([int(row["label"]) for row in rows])
    for number in (3, 40):
        rows[number]["label"] = str(1 - truth[number])
    write_jsonl(tmp_path / "train.jsonl", rows)
    sure = np.where(np.arange(60) == 40, 0.99, 0.9)

    def keep(arguments, path):
        held = [json.loads(line)["id"] for line in open(arguments.data.validation_file)]  # noqa: SIM115
        chances = np.where(truth[held] == 1, sure[held], 1 - sure[held])
        path.parent.mkdir(exist_ok=True)
        np.savez(path, probabilities=np.stack([1 - chances, chances], 1), labels=truth[held])

    monkeypatch.setattr(audit_module, "train", lambda arguments: None)
    monkeypatch.setattr(audit_module, "keep_answers", keep)
    (tmp_path / "train.jsonl").write_text("{}\n" + (tmp_path / "train.jsonl").read_text())
    assert audit([*words, "--on_bad_row=skip"], 4).places.tolist() == [40, 3]
    page = (tmp_path / "audit" / "audit.md").read_text()
    assert "2 of 60 labels are doubtful (3.3%)" in page
    assert page.index("| 41 |") < page.index("| 4 |")
    assert (
        "A number counts the pairs as they were read, from 1, without rows that were left out (1 bad rows left" in page
    )
    assert "left out        1 bad rows left out, the first: " in capsys.readouterr().out


COLUMNS = {"sentence1": "q1", "sentence2": "q2", "label": "same", "id": "number"}


@pytest.mark.parametrize("form", ["usual", "own", "hub"])
def test_a_sweep_compares_what_an_audit_leaves_out(words, tmp_path, monkeypatch, form):
    rows, more = make_rows(40), []
    if form != "usual":
        rows = [{COLUMNS[key]: value for key, value in row.items()} for row in rows]
        rows = [{**row, "same": ("no", "yes")[int(row["same"])]} for row in rows]
        more = ["--text_column_names=q1,q2", "--label_column_name=same", "--id_column_name=number"]
        more += ["--label_names", "no", "yes"]
    monkeypatch.setattr(audit_module, "_train_fold", pretend_fold)
    folder, data = tmp_path / "audit", tmp_path / "data"
    data.mkdir()
    for name, part in (("train", rows[:30]), ("dev", rows[30:])):
        write_jsonl(data / f"{name}.jsonl", part)
    words = [word for word in words if not word.startswith("--train_file")] + more
    over = [f"train_file={data / 'train.jsonl'},{folder / 'train-without-10-percent.jsonl'}"]
    if form == "hub":
        (data / "dev.jsonl").rename(data / "validation.jsonl")
        given = [*words, "--dataset_name=some/pairs", "--dataset_config_name=", "--folds=2", "--leave_out=0.1"]
        with hub({"datasets/some/pairs": data}) as endpoint:
            here = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
            command = [sys.executable, "-m", "recipe.studies.audit", *given]
            subprocess.run(command, env={**os.environ, **here}, cwd=ROOT, check=True, timeout=300)
        whole = [folder / f"hub-{name}.jsonl" for name in ("train", "validation")]
        assert [json.loads(line) for line in whole[0].read_text().splitlines()] == rows[:30]
        assert [json.loads(line) for line in whole[1].read_text().splitlines()] == rows[30:]
        over = [over[0].replace(str(data / "train.jsonl"), str(whole[0])), f"validation_file={whole[1]}"]
    else:
        words.append(f"--data_dir={data}")
        audit(words, 2, [0.1])
        assert not list(folder.glob("hub-*"))
    kept = [json.loads(line) for line in (folder / "train-without-10-percent.jsonl").read_text().splitlines()]
    assert len(kept) == 27
    assert all(row in rows[:30] for row in kept)
    planned = plan(words, parse_over(over))
    assert [each.validation[1] for each in planned] == [10, 10]


def pretend_fold(arguments, split, pairs, held, path):
    path.parent.mkdir(exist_ok=True)
    chances = np.random.default_rng(0).random(held.sum())
    np.savez(path, probabilities=np.stack([chances, 1 - chances], 1), labels=np.zeros(held.sum(), int))


def test_labels_whose_names_the_data_say_are_told(words, tmp_path, monkeypatch, capsys):
    rows = [{**row, "label": int(row["label"])} for row in make_rows(40)]
    kinds = {name: datasets.Value("string") for name in ("sentence1", "sentence2")} | {"id": datasets.Value("int64")}
    features = datasets.Features(kinds | {"label": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    monkeypatch.setattr(audit_module, "_train_fold", pretend_fold)
    audit([*words, f"--train_file={tmp_path / 'train.parquet'}"], 2, [0.1])
    assert "note: these files are read with --label_names no yes\n" in capsys.readouterr().out


def test_repeats_and_swapped_pairs_are_in_one_fold_and_labels_in_all():
    pairs = [{"sentence1": f"a{n % 20}", "sentence2": f"b{n % 20}", "label": n % 2} for n in range(40)]
    pairs += [{**pair, "sentence1": pair["sentence2"], "sentence2": pair["sentence1"]} for pair in pairs[:10]]
    folds = assign_folds(pairs, 4, 1)
    for number in range(20):
        assert len({folds[place] for place, pair in enumerate(pairs) if f"a{number}" in pair.values()}) == 1
    labels = np.array([pair["label"] for pair in pairs])
    assert all(0.3 < labels[folds == fold].mean() < 0.7 for fold in range(4))
    single = [{"sentence1": str(n), "sentence2": None, "label": n % 2} for n in range(8)]
    assert sorted(assign_folds(single, 2, 1)) == [0] * 4 + [1] * 4


def test_a_label_that_one_pair_alone_has_cannot_be_learnt_without_it(words, tmp_path):
    rows = [row for row in make_rows(60) if row["label"] == "0"]
    write_jsonl(tmp_path / "train.jsonl", [*rows, *[{"sentence1": "花", "sentence2": "呗", "label": "1", "id": 0}] * 6])
    says = (
        r"^--folds 3: all pairs of label 1 in .*train.jsonl are in one fold, as repeats are; two different ones of each"
    )
    with pytest.raises(UserError, match=says):
        audit(words, 3)
    same = [{"sentence1": "花", "sentence2": f"呗{n % 2}", "label": str(n // 6 % 2), "id": 0} for n in range(12)]
    write_jsonl(tmp_path / "train.jsonl", same)
    with pytest.raises(UserError, match=r"^--folds 3: the training split has 2 different pairs; each fold must have"):
        audit(words, 3)
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize(
    "more", ["--early_stopping_patience=2", "--load_best_model_at_end=true", "--save_strategy=best", "--eval_steps=5"]
)
def test_what_needs_evaluations_does_nothing_in_a_folds_run(words, more):
    args = audit_module._parse([*words, more]).training
    assert (args.eval_strategy, args.save_strategy, args.load_best_model_at_end) == ("no", "no", False)
    assert args.early_stopping_patience is None


def test_what_follows_evaluations_or_asks_for_other_scores_is_refused(words, tmp_path):
    with pytest.raises(UserError, match=r"^--lr_scheduler_type reduce_lr_on_plateau: it follows evaluations, which"):
        audit([*words, "--lr_scheduler_type=reduce_lr_on_plateau"], 3)
    with pytest.raises(
        UserError, match=r"^--do_eval: these runs go on by themselves, scored on the validation split; leave"
    ):
        audit([*words, "--do_eval", "--eval_split=train"], 3)
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize(
    ("folds", "shares", "says"),
    [
        (1, [], "--folds 1: a whole number from 2 to 100 is expected"),
        (101, [], "--folds 101: "),
        (50, [], "--folds 50: .*train.jsonl has [0-9]+ pairs of label 0; each fold must have one"),
        (5, [1.0], "--leave_out 1: a share of the pairs between 0 and 1 is expected"),
        (5, [float("nan")], "--leave_out nan: "),
        (5, [0.1, 0.001], "--leave_out 0.001: none of 60 pairs; at least one and not all is expected"),
        (5, [0.999], "--leave_out 0.999: all of 60 pairs; "),
    ],
)
def test_what_cannot_be_meant(words, tmp_path, folds, shares, says):
    with pytest.raises(UserError, match=says):
        audit(words, folds, shares)
    assert not (tmp_path / "audit").exists()
