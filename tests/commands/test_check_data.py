import json
import shlex
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from recipe.cache.encoding import Encoding
from recipe.cache.key import make_key, pair_hashes
from recipe.commands import check_data, describe_data
from recipe.commands.describe_data import padding
from recipe.commands.train import train
from recipe.data.opening import open_split
from recipe.data.splits import iterate
from recipe.errors import RunError, UserError
from tests.utils import make_pairs, make_scored, write_jsonl

TABLE = [
    "sentence1\tsentence2\tlabel",
    "花呗\t借呗\t1",
    "借呗\t花呗\t0",
    "花呗\t借呗\t0",
    "还款\t信用卡\t0",
    "怎么\t什么\t1",
]


def told(capsys):
    """The lines of a report, by their first words."""
    lines = {}
    for line in capsys.readouterr().out.splitlines():
        lines.setdefault(line[:15].strip(), []).append(line[16:])
    return lines


def test_the_report_counts_labels_lengths_repeats_and_overlaps(arguments, tmp_path, capsys):
    (tmp_path / "train.tsv").write_text("\n".join(TABLE) + "\n", encoding="utf-8")
    (tmp_path / "dev.tsv").write_text("\n".join([TABLE[0], TABLE[1], TABLE[4]]) + "\n", encoding="utf-8")
    words = arguments(
        f"--data_dir={tmp_path}", "--prefix_cache_dtype=float32", "--max_length=8", "--num_train_epochs=2"
    )
    check_data.check_data(words)
    report = told(capsys)
    assert report["train"] == [f"5 pairs from {tmp_path / 'train.tsv'}"]
    assert report["labels"] == [
        "0 3 (60.0%), 1 2 (40.0%); always answering 0: 0.6000",
        "0 1 (50.0%), 1 1 (50.0%); always answering 0: 0.5000",
    ]
    assert report["tokens"][0] == "7 to 8, half up to 7, 90 % up to 8, 99 % up to 8; 0 cut at --max_length (0.00%)"
    assert report["repeated"] == [
        "1 rows repeat an earlier one; 1 pairs have several labels",
        "0 rows repeat an earlier one; 0 pairs have several labels",
    ]
    assert report["swapped"][0] == "1 pairs stand there in the other order too, 1 of them with other labels"
    assert report["in two splits"] == [
        "2 rows of validation are in train too, 1 with another label; 4 sentences are in both"
    ]
    # 4 different pairs of train and 2 of validation, of which each is 7 or 8 tokens of 32 float32 numbers
    assert report["prefix cache"][0].startswith("0.00 GB at depth 2 in float32; 44 tokens to encode at ")
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "run").exists()


def test_shares_are_of_the_rows_that_have_a_label(arguments, tmp_path, capsys):
    rows = make_pairs(20, 1)
    for number, row in enumerate(rows):
        row["label"] = "" if number < 10 else str(int(number < 13))
    write_jsonl(tmp_path / "test.json", rows)
    check_data.check_data(arguments(f"--test_file={tmp_path / 'test.json'}"))
    labels = told(capsys)["labels"]
    assert labels[-2:] == ["0 7 (70.0%), 1 3 (30.0%); always answering 0: 0.7000", "10 pairs without one"]


def test_padding_is_what_the_first_epochs_batches_carry(arguments, split_tokens):
    tokens = split_tokens()
    one = arguments("--per_device_train_batch_size=1")
    assert padding(tokens, one) == 1
    whole = arguments("--per_device_train_batch_size=70")
    assert padding(tokens, whole) == int(tokens.lengths.max()) * 70 / int(tokens.lengths.sum())


def test_a_validation_split_that_is_there_already_is_said_to_be_passed_over(arguments, pairs_dir, tmp_path, capsys):
    for name in ("train.json", "dev.json"):
        (tmp_path / name).write_bytes((pairs_dir / name).read_bytes())
    check_data.check_data(arguments(f"--data_dir={tmp_path}", "--prefix_cache=off"), share=0.2)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {tmp_path / 'dev.json'} is there and is not looked at: --split makes a validation split"]
    check_data.check_data(arguments(f"--train_file={tmp_path / 'train.json'}", "--seed=1"), share=0.2)
    # --data_dir of the fixture has one as well
    assert f"note: {pairs_dir / 'dev.json'} is there and is not looked at" in capsys.readouterr().out


def test_a_split_is_written_and_read_by_the_next_command(arguments, tmp_path, capsys):
    write_jsonl(tmp_path / "train.json", make_pairs(200))
    check_data.check_data(arguments(f"--data_dir={tmp_path}"), share=0.2)
    report = told(capsys)
    files = [tmp_path / "split-0.2-seed-42" / f"{name}.json" for name in ("train", "validation")]
    assert [line.split(":")[0] for line in report["written"]] == list(map(str, files))
    rows = [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]
    assert sorted(rows, key=str) == sorted(make_pairs(200), key=str)
    check_data.check_data(arguments(*report["next"][0].partition("and ")[2].split()))
    both = told(capsys)["in two splits"][0]
    assert both == "0 rows of validation are in train too, 0 with another label; 0 sentences are in both"


def test_a_split_of_data_that_name_their_labels_is_read_with_these_names(arguments, tmp_path, capsys):
    features = datasets.Features({"sentence1": datasets.Value("string"), "sentence2": datasets.Value("string")})
    features["label"] = datasets.ClassLabel(names=["same", "not the same"])
    rows = [{**row, "label": int(row["label"])} for row in make_pairs(200)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    before = arguments(f"--data_dir={tmp_path}")
    check_data.check_data(before, share=0.2)
    words = shlex.split(told(capsys)["next"][0].partition("and ")[2])
    assert words[:3] == ["--label_names", "same", "not the same"]
    after = arguments(f"--data_dir={tmp_path}", *words)

    def pairs(data, *names):
        return sorted(list(pair.values())[:3] for name in names for pair in iterate(open_split(data, name).pairs))

    assert pairs(after.data, "train", "validation") == pairs(before.data, "train")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--num_train_epochs=1"], "off, a single epoch would read each output once"),
        (["--prefix_cache=off"], "off, as --prefix_cache says"),
        (["--frozen_dropout"], "off, --frozen_dropout makes the prefix's outputs differ from pass to pass"),
        (["--freeze_layers=none"], "off, there is no frozen prefix: the embeddings are trained"),
        (["--prefix_cache_max_gb=1e-8"], "off, --prefix_cache_max_gb 1e-08 has no room for a single pair of the train"),
    ],
)
def test_where_a_run_has_no_prefix_cache_its_reason_is_told(arguments, capsys, words, line):
    check_data.check_data(arguments("--num_train_epochs=2", *words))
    assert [each[: len(line)] for each in told(capsys)["prefix cache"]] == [line]


def test_what_of_the_pairs_a_prefix_cache_keeps_is_told_as_a_run_tells_it(arguments, capsys):
    words = arguments("--num_train_epochs=2", "--prefix_cache_max_gb=5e-5")
    check_data.check_data(words)
    size, kept = told(capsys)["prefix cache"]
    assert size.startswith("0.00 GB at depth 2 in float16; ")
    train(words)
    assert f"prefix cache: {kept}\n" in capsys.readouterr().out


def test_the_seconds_of_encoding_are_of_what_batches_are_filled_up_to(arguments, model, split_tokens, monkeypatch):
    """A clock that counts tokens as they are computed, a second each, tells a token a second."""
    clock, real = [0.0], describe_data.prefix_runner

    def counting(job, device):
        run = real(job, device)

        def counted(base, batch, dtype):
            states = run(base, batch, dtype)
            clock[0] += states.shape[0] * states.shape[1]
            return states

        return counted

    monkeypatch.setattr(describe_data, "prefix_runner", counting)
    monkeypatch.setattr(describe_data.time, "perf_counter", lambda: clock[0])
    tokens = split_tokens()
    key = make_key(model, "float16", "float32", torch.device("cpu"))
    job = Encoding(model, tokens, pair_hashes(tokens), key, Path("nowhere"), "train")
    assert describe_data.time_encoding(job, arguments()) == 1


def test_what_cannot_be_divided_or_written_leaves_nothing(arguments, tmp_path, monkeypatch):
    rows = [{"sentence1": "花呗", "sentence2": str(number), "label": "1"} for number in range(30)]
    write_jsonl(tmp_path / "train.json", rows)
    with pytest.raises(UserError, match=r"--split 0.1: 0 of 30 rows can be told off without a sentence on both sides"):
        check_data.check_data(arguments(f"--data_dir={tmp_path}"), share=0.1)
    write_jsonl(tmp_path / "train.json", make_pairs(200))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recipe.system.files.usual_mode", full)
    with pytest.raises(RunError, match=r"split-0.1-seed-42: cannot be written: No space left on device"):
        check_data.check_data(arguments(f"--data_dir={tmp_path}"), share=0.1)
    assert [path.name for path in tmp_path.iterdir() if "split" in path.name] == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--split=0"], "--split 0: a share of the training split above 0 and below 1"),
        (["--split=x"], "--split: invalid float value: 'x'"),
        (["--splitt=0.1"], "unknown argument '--splitt'"),
        (["--data_dir=nowhere"], "--data_dir nowhere: no such folder"),
    ],
)
def test_what_is_wrong_is_one_line(monkeypatch, tiny_model, words, reason):
    monkeypatch.setattr(
        sys, "argv", ["check_data", f"--model_name_or_path={tiny_model}", "--use_cpu", "--max_length=32", *words]
    )
    with pytest.raises(UserError) as error:
        check_data.main()
    assert str(error.value).startswith(reason)


def test_scores_are_told_by_how_they_are_spread_and_divided_by_tenths(arguments, tmp_path, capsys):
    rows = make_scored(300)
    write_jsonl(tmp_path / "train.json", [*rows, {**rows[0], "label": 1.5}])
    write_jsonl(tmp_path / "test.json", [{**row, "label": None} for row in make_scored(5, 9)])
    words = ["--task_type=regression", "--prefix_cache=off"]
    check_data.check_data(arguments(f"--data_dir={tmp_path}", *words), share=0.2)
    report = told(capsys)
    scores = np.array([*(row["label"] for row in rows), 1.5])
    spread = f"scores {scores.min():g} to {scores.max():g}, a quarter up to {np.quantile(scores, 0.25):g}, half up to"
    assert report["labels"][0].startswith(spread)
    assert report["labels"][0].endswith(f"mean, {scores.mean():.4g}: squared error {scores.var():.4f}")
    assert report["labels"][1:] == ["5 pairs without one"]
    assert report["repeated"][0] == "1 rows repeat an earlier one; 1 pairs have several scores"
    files = [tmp_path / "split-0.2-seed-42" / f"{name}.json" for name in ("train", "validation")]
    parts = [[json.loads(line)["label"] for line in path.read_text("utf-8").splitlines()] for path in files]
    assert sorted(parts[0] + parts[1]) == sorted(scores)
    assert np.quantile(parts[0], (0.25, 0.5, 0.75)) == pytest.approx(np.quantile(parts[1], (0.25, 0.5, 0.75)), abs=0.4)
    check_data.check_data(arguments(*words, *report["next"][0].partition("and ")[2].split()))
    assert "0 with another score; 0 sentences are in both" in told(capsys)["in two splits"][0]
