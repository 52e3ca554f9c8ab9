import shutil

import datasets
import pytest

from recipe.arguments import DataArguments
from recipe.commands.train import train
from recipe.data.opening import require_split
from recipe.errors import UserError
from tests.utils import make_pairs, write_jsonl

GOOD = {"sentence1": "花呗怎么还", "sentence2": "怎么还花呗", "label": "1"}


def test_missing_splits_and_files(tmp_path, pairs_dir):
    write_jsonl(tmp_path / "dev.json", make_pairs(2))
    with pytest.raises(UserError, match="no train split"):
        require_split(DataArguments(data_dir=str(tmp_path)), "train")
    with pytest.raises(UserError, match=r"--train_file .*: no such file"):
        require_split(DataArguments(train_file=str(tmp_path / "none.json")), "train")
    with pytest.raises(UserError, match=r"--train_file .*: a folder, which --data_dir takes; a file, or a pattern"):
        require_split(DataArguments(train_file=str(tmp_path)), "train")
    with pytest.raises(UserError, match=r"--data_dir .*dev.json: a file, which --train_file and the like take; a fol"):
        require_split(DataArguments(data_dir=str(tmp_path / "dev.json")), "train")
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


def test_what_save_to_disk_wrote_is_told_as_that(tmp_path):
    rows = datasets.Dataset.from_list(make_pairs(4))
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "all")
    for name in ("one", "all"):
        with pytest.raises(UserError, match="no train split in it; it is of datasets' save_to_disk; what to_json or "):
            require_split(DataArguments(data_dir=str(tmp_path / name)), "train")


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
