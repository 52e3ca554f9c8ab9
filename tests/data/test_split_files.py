import pytest

from recipe.data.split_files import find_split
from recipe.errors import UserError


def test_find_split(tmp_path):
    (tmp_path / "dev.tsv.gz").touch()
    assert find_split(tmp_path, "validation") == [tmp_path / "dev.tsv.gz"]
    assert find_split(tmp_path, "train") == []
    (tmp_path / "validation.json").touch()
    with pytest.raises(UserError, match="both hold the validation split"):
        find_split(tmp_path, "validation")
    with pytest.raises(UserError, match="no such folder"):
        find_split(tmp_path / "none", "train")


def test_shards_are_found_in_order_and_not_beside_a_whole_file(tmp_path):
    for number in (1, 0, 2):
        (tmp_path / f"train-{number:05}-of-00003.csv.gz").touch()
    assert [path.name[6:11] for path in find_split(tmp_path, "train")] == ["00000", "00001", "00002"]
    (tmp_path / "train.json").touch()
    with pytest.raises(UserError, match=r"train.json and train-00000-of-00003.csv.gz both hold the train split"):
        find_split(tmp_path, "train")
