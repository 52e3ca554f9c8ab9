import os

import datasets
import pytest
from torch._utils import ExceptionWrapper
from transformers import AutoTokenizer

from recipe.arguments import DataArguments
from recipe.batches.tokenization import tokenize
from recipe.data.opening import open_split
from recipe.data.splits import iterate
from recipe.errors import UserError
from tests.utils import make_pairs, write_jsonl

GOOD = {"sentence1": "花呗怎么还", "sentence2": "怎么还花呗", "label": "1"}


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
