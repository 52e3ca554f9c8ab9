import os
import shutil

import datasets
import pytest
from torch._utils import ExceptionWrapper
from transformers import AutoTokenizer

from recipe.arguments import DataArguments
from recipe.batches.tokenization import tokenize
from recipe.commands.train import train
from recipe.data.opening import open_split, require_split
from recipe.data.pairs import UNLABELLED, RowRules, check_pair, names_of_ids
from recipe.data.splits import iterate
from recipe.errors import UserError
from recipe.rows.sentences import LONGEST
from tests.hub_server import ask, hub
from tests.utils import make_pairs, write_jsonl

GOOD = {"sentence1": "花呗怎么还", "sentence2": "怎么还花呗", "label": "1"}


@pytest.mark.parametrize("label", ["1", 1])
def test_labels_as_text_or_number(label):
    assert check_pair("f:1", {**GOOD, "label": label}, RowRules(["0", "1"], True))["label"] == 1


def test_named_labels_by_name_or_id():
    names = ["contradiction", "neutral", "entailment"]
    assert check_pair("f:1", {**GOOD, "label": "entailment"}, RowRules(names, True))["label"] == 2
    assert check_pair("f:1", {**GOOD, "label": 2}, RowRules(names, True))["label"] == 2


def test_labels_are_matched_by_what_a_csv_file_would_hold():
    def label(value, names, **options):
        return check_pair("f:1", {**GOOD, "label": value}, RowRules(names, True, **options))["label"]

    for value, text in [(1.0, "1.0"), (True, "true"), (True, "True"), ("1.0", "1.0"), (1, "1")]:
        assert label(value, ["no", text]) == 1
    assert label(-1, ["-1", "1"]) == 0  # a label that is called so, not a missing one
    assert check_pair("f:1", {**GOOD, "label": "-1"}, RowRules(["-1", "1"], labelled=False))["label"] == 0
    for names in (["-1", "1"], ["0.5", "1.5"]):
        with pytest.raises(UserError, match=r"label is 0; .* is expected \(--label_names; --on_bad_row skip"):
            label(0, names)  # names that are numbers are never taken for ids


@pytest.mark.parametrize(
    ("class_names", "label_names", "expected"),
    [
        (["1", "0"], ["1", "0"], [0, 1]),
        (["1", "0"], ["0", "1"], [1, 0]),
        (["1", "2", "3"], ["1", "2", "3"], [0, 1]),
        (["0", "1"], ["different", "same"], [0, 1]),
    ],
)
def test_a_whole_number_of_a_class_label_is_an_id(class_names, label_names, expected):
    known = names_of_ids("data", class_names, label_names)
    found = [check_pair("f:1", {**GOOD, "label": i}, RowRules(label_names, True, known))["label"] for i in (0, 1)]
    assert found == expected
    for value in (len(class_names), -1):
        with pytest.raises(UserError, match=f"label is {value}"):
            check_pair("f:1", {**GOOD, "label": value}, RowRules(label_names, True, known))
    assert check_pair("f:1", {**GOOD, "label": -1}, RowRules(label_names, False, known))["label"] == UNLABELLED


def test_names_that_are_neither_the_datas_nor_as_many_are_refused():
    for names in (["a", "b"], ["1", "x", "y"]):
        with pytest.raises(UserError, match=r"--label_names .*: data has the labels 1 2 3; these, or as many other"):
            names_of_ids("data", ["1", "2", "3"], names)


def test_a_parquet_file_of_datasets_says_what_its_ids_stand_for(tmp_path):
    features = datasets.Features(
        {**{f"sentence{i}": datasets.Value("string") for i in (1, 2)}, "label": datasets.ClassLabel(names=["1", "0"])}
    )
    rows = datasets.Dataset.from_list([{**row, "label": 1 - int(row["label"])} for row in make_pairs(9)], features)
    rows.to_parquet(tmp_path / "train.parquet")
    expected = [int(row["label"]) for row in make_pairs(9)]
    for names, labels in ((None, [1 - label for label in expected]), (["0", "1"], expected)):
        split = open_split(DataArguments(train_file=str(tmp_path / "train.parquet"), label_names=names), "train")
        assert split.label_names == (names or ["1", "0"])
        assert [pair["label"] for pair in iterate(split.pairs)] == labels


@pytest.mark.parametrize(
    "text", ["\u200b", "\ufeff \u00ad", "\x07\x1b", "\ufffd", "\ue000", "\u0301\ufe0f", "\u3164", "\u2028"]
)
def test_a_sentence_that_shows_nothing_is_no_sentence(text):
    with pytest.raises(UserError, match=r"f:1: sentence2 (has no visible character: '\\|is empty)"):
        check_pair("f:1", {**GOOD, "sentence2": text}, RowRules(["0", "1"], True))
    assert check_pair("f:1", {**GOOD, "sentence2": f"{text}花"}, RowRules(["0", "1"], True))["sentence2"] == f"{text}花"


@pytest.mark.parametrize("label", [None, -1, "-1", ""])
def test_a_test_split_needs_no_labels(label):
    assert check_pair("f:1", {**GOOD, "label": label}, RowRules(["0", "1"], False))["label"] == UNLABELLED


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": "2"}, "label is '2'; 0 or 1 is expected"),
        ({"label": None}, "label is None"),
        ({"label": -1}, "label is -1"),
        ({"label": True}, "label is True"),
        ({"label": 1.0}, "label is 1.0"),
        ({"label": [1]}, "label is [1]"),
        ({"sentence1": ""}, "sentence1 is empty"),
        ({"sentence2": " \u3000 "}, "sentence2 is empty"),
        ({"sentence1": 5}, "sentence1 is 5; a string is expected"),
        ({"sentence2": None}, "sentence2 is None"),
        ({"sentence1": "\ud83d"}, "lone surrogate"),
        ({"sentence1": "a" * (LONGEST + 1)}, "sentence1 has 1,000,001 characters; at most 1,000,000 are expected"),
    ],
)
def test_a_row_that_is_no_pair_is_refused(change, told):
    with pytest.raises(UserError) as error:
        check_pair("f.json:7", {**GOOD, **change}, RowRules(["0", "1"], True))
    assert str(error.value).startswith("f.json:7: ")
    assert told in str(error.value)


@pytest.mark.parametrize("missing", ["sentence1", "sentence2", "label"])
def test_a_missing_key_is_named(missing):
    record = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(UserError, match=f"f:1: no '{missing}' among the keys"):
        check_pair("f:1", record, RowRules(["0", "1"], True))


def test_bad_rows_are_errors_or_counted(tmp_path):
    rows = [*make_pairs(5), {**GOOD, "label": "7"}, *make_pairs(4, 1), {**GOOD, "sentence1": ""}]
    path = str(write_jsonl(tmp_path / "train.json", rows))
    with pytest.raises(UserError, match=r"train.json:6: label is '7'"):
        open_split(DataArguments(train_file=path), "train")
    split = open_split(DataArguments(train_file=path, on_bad_row="skip"), "train")
    assert (split.rows, len(split.skipped)) == (9, 2)
    assert "train.json:6" in split.skipped[0]
    assert split.skipped[1] == "", "millions of them must not fill the memory"
    assert len(list(iterate(split.pairs))) == 9


def test_what_stands_behind_the_limit_is_not_read(tmp_path, tiny_model):
    rows = [*make_pairs(6), {**GOOD, "label": "-"}, *make_pairs(4)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=r"label is '-'; 0 or 1 is expected \(--label_names; --on_bad_row skip leaves"):
        open_split(DataArguments(train_file=str(path)), "train")
    for streaming in (True, False):
        args = DataArguments(train_file=str(path), max_train_samples=6, streaming=streaming)
        split = open_split(args, "train")
        assert [pair["sentence1"] for pair in iterate(split.pairs)] == [row["sentence1"] for row in rows[:6]]
        assert split.rows == 6
        skips = DataArguments(train_file=str(path), max_train_samples=7, streaming=streaming, on_bad_row="skip")
        split = open_split(skips, "train")
        assert (split.rows, len(list(iterate(split.pairs))), len(split.skipped)) == (7, 7, 1)


def test_data_that_change_while_a_run_reads_them_are_noticed(tmp_path):
    path = write_jsonl(tmp_path / "train.json", make_pairs(5))
    split = open_split(DataArguments(train_file=str(path)), "train")
    os.utime(path)  # other times, the same bytes
    assert len(list(iterate(split.pairs))) == 5
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"1"', b'"x"').replace(b'"0"', b'"1"').replace(b'"x"', b'"0"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=r"train.json: was changed while the run read it; put the old file back"):
        list(iterate(split.pairs))
    path.unlink()
    with pytest.raises(UserError, match=r"train.json: cannot be read any more"):
        list(iterate(split.pairs))


def test_an_error_in_a_worker_is_the_same_line(tmp_path):
    path = write_jsonl(tmp_path / "train.json", make_pairs(5))
    split = open_split(DataArguments(train_file=str(path)), "train")
    write_jsonl(path, make_pairs(4))
    try:
        list(iterate(split.pairs))
    except UserError:  # as a DataLoader hands it on, with its traceback for a message
        carried = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(UserError) as error:
        carried.reraise()
    assert str(error.value).startswith(f"{path}: was changed while the run read it")


def test_nothing_is_written_to_read_local_files(monkeypatch, tmp_path, pairs_dir):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    (tmp_path / "file").touch()  # a folder in a file cannot be made, by root either
    split = open_split(DataArguments(data_dir=str(pairs_dir)), "train")
    assert len(list(iterate(split.pairs))) == 70
    with pytest.raises(UserError, match=r"--no_streaming: .*file/cache cannot be written .*HF_HOME"):
        open_split(DataArguments(data_dir=str(pairs_dir), streaming=False), "train")


def test_label_names_are_not_taken_for_shards(pairs_dir):
    split = open_split(DataArguments(data_dir=str(pairs_dir)), "train")
    assert split.pairs.num_shards == 1
    assert {pair["label"] for pair in iterate(split.pairs)} == {0, 1}


def test_files_that_match_a_pattern_are_one_split(tmp_path):
    for name, count in (("a-1.jsonl", 3), ("a-2.jsonl", 4)):
        write_jsonl(tmp_path / name, make_pairs(count))
    split = open_split(DataArguments(train_file=str(tmp_path / "a-*.jsonl")), "train")
    assert (split.rows, split.shards) == (7, 2)
    assert split.source == f"{tmp_path / 'a-1.jsonl'} and 1 more"
    assert len(list(iterate(split.pairs))) == 7
    with pytest.raises(UserError, match=r"b-\*.jsonl: no such file; a file, or a pattern"):
        open_split(DataArguments(train_file=str(tmp_path / "b-*.jsonl")), "train")


def test_streamed_and_kept_in_arrow_are_the_same_examples(pairs_dir, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    kept = {}
    for streaming in (True, False):
        split = open_split(DataArguments(data_dir=str(pairs_dir), streaming=streaming), "train")
        assert isinstance(split.pairs, datasets.IterableDataset if streaming else datasets.Dataset)
        examples = tokenize(split.pairs, tokenizer, 16)
        kept[streaming] = [dict(example) for example in iterate(examples)]
        assert len(kept[streaming]) == split.rows == 70
    assert kept[True] == kept[False]
    assert max(len(example["input_ids"]) for example in kept[True]) == 16


def test_arrow_reads_an_edited_file_again(tmp_path):
    path = tmp_path / "train.json"
    args = DataArguments(train_file=str(path), streaming=False)
    for text in ("花呗", "借呗怎么用"):
        write_jsonl(path, [{**GOOD, "sentence1": text}])
        assert [pair["sentence1"] for pair in iterate(open_split(args, "train").pairs)] == [text]


def test_arrow_reads_other_labels_under_the_same_size_and_time(tmp_path):
    path = tmp_path / "train.json"
    args = DataArguments(train_file=str(path), streaming=False)
    for label in "01":
        write_jsonl(path, [{**GOOD, "label": label}])
        os.utime(path, ns=(10**18, 10**18))
        assert [pair["label"] for pair in iterate(open_split(args, "train").pairs)] == [int(label)]


def test_max_samples(pairs_dir):
    split = open_split(DataArguments(data_dir=str(pairs_dir), max_train_samples=11), "train")
    assert split.rows == len(list(iterate(split.pairs))) == 11


def test_missing_splits_and_files(tmp_path, pairs_dir):
    write_jsonl(tmp_path / "dev.json", make_pairs(2))
    with pytest.raises(UserError, match="no train split"):
        require_split(DataArguments(data_dir=str(tmp_path)), "train")
    with pytest.raises(UserError, match=r"--train_file .*: no such file"):
        require_split(DataArguments(train_file=str(tmp_path / "none.json")), "train")
    (tmp_path / "train.json").touch()
    with pytest.raises(UserError, match="no sentence pairs"):
        require_split(DataArguments(data_dir=str(tmp_path)), "train")
    write_jsonl(tmp_path / "train.json", [{**GOOD, "label": "-"}])
    with pytest.raises(UserError, match=r"no sentence pairs in it; 1 bad rows left out, the first: .*train.json:1: "):
        require_split(DataArguments(data_dir=str(tmp_path), on_bad_row="skip"), "train")


@pytest.mark.parametrize("name", ["train.txt", "train.zip", "Train.JSON", "afqmc_public.zip", "data.tar.gz"])
def test_a_file_that_may_hold_the_split_in_another_form_is_named(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"no train split in it; {name} is there, whose name or form is not read"):
        require_split(DataArguments(data_dir=str(tmp_path)), "train")


def test_a_validation_split_called_otherwise_is_named(tmp_path):
    (tmp_path / "val.json").touch()
    with pytest.raises(UserError, match=r"val\.json is there, .* validation\.json .* is expected"):
        require_split(DataArguments(data_dir=str(tmp_path)), "validation")


def test_a_missing_shard_is_named(tmp_path):
    for number in (0, 2):
        write_jsonl(tmp_path / f"train-0000{number}-of-00003.jsonl", make_pairs(4, number))
    with pytest.raises(UserError, match="2 of 3 shards are there; train-00001-of-00003 is missing"):
        require_split(DataArguments(data_dir=str(tmp_path)), "train")
    (tmp_path / "train-00000-of-00003.jsonl").rename(tmp_path / "train-00001-of-00003.jsonl")
    write_jsonl(tmp_path / "train-00003-of-00003.jsonl", make_pairs(4, 3))  # some count from 1
    assert require_split(DataArguments(data_dir=str(tmp_path)), "train").rows == 12


def test_without_a_hub_the_three_ways_out_are_said(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    with pytest.raises(UserError) as error:
        require_split(DataArguments(), "train")
    for way in ("--data_dir", "HF_ENDPOINT", "make demo"):
        assert way in str(error.value)


def test_a_repository_that_the_hub_does_not_have(monkeypatch):
    with hub({}) as endpoint:
        ask(endpoint, monkeypatch)
        with pytest.raises(UserError, match="--dataset_name no/such: neither a folder here nor a dataset on"):
            require_split(DataArguments(dataset_name="no/such"), "train")


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "no sentence pairs in it"), (b"PAR1", "not a Parquet file"), (None, None)]
)
def test_a_validation_file_that_nothing_needs_is_left_out(tmp_path, pairs_dir, arguments, capsys, content, told):
    shutil.copy(pairs_dir / "train.json", tmp_path)
    if content is not None:
        (tmp_path / ("dev.parquet" if content else "dev.json")).write_bytes(content)
    words = [f"--data_dir={tmp_path}", "--max_steps=1", "--prefix_cache=off"]
    train(arguments(*words, "--eval_strategy=no"))
    note = capsys.readouterr().out.partition("note: validation is left out, and not needed with --eval_strategy no: ")[
        2
    ]
    assert (told or "") in note
    assert bool(note) == (told is not None)
    with pytest.raises(UserError, match=told or "no validation split"):
        train(arguments(*words, f"--output_dir={tmp_path / 'other'}"))
