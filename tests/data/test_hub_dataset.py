import errno

import datasets
import pytest

from recipe.arguments import DataArguments
from recipe.data.opening import open_split, require_split
from recipe.data.splits import iterate
from recipe.errors import UserError
from tests.hub_server import ask, hub
from tests.utils import make_pairs


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


@pytest.mark.parametrize("streaming", [True, False])
def test_what_stands_behind_the_limit_is_not_read(monkeypatch, streaming):
    """Also where no metadata counts the rows; of a thousand, as many as are checked together."""
    pairs = [{**row, "label": int(row["label"])} for row in make_pairs(9, 1)]
    rows = datasets.Dataset.from_list([*pairs, {**pairs[0], "label": 7}])
    rows = rows.to_iterable_dataset() if streaming else rows
    monkeypatch.setattr("recipe.data.hub_dataset._load", lambda args, name: (rows, "revision"))
    for limit in (5, 9):
        split = open_split(DataArguments(streaming=streaming, max_train_samples=limit), "train")
        assert [pair["label"] for pair in iterate(split.pairs)] == [row["label"] for row in pairs[:limit]]
    with pytest.raises(UserError, match="clue/clue afqmc train row 10: label is 7"):
        open_split(DataArguments(streaming=streaming), "train")
    split = open_split(DataArguments(streaming=streaming, max_train_samples=9, on_bad_row="skip"), "train")
    assert len(list(iterate(split.pairs))) == 9


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ValueError("BuilderConfig 'afqmc' not found. Available: ['default']"),
            r"^--dataset_config_name afqmc, of my/own",
        ),
        (
            OSError(errno.EROFS, "Read-only file system"),
            r"^--dataset_name my/own: .* cannot be written .* with HF_HOME$",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), r"cannot be written \(No space left.* with HF_HOME$"),
    ],
)
def test_a_hub_dataset_that_cannot_be_opened_names_what_to_change(monkeypatch, error, told):
    def fail(args):
        raise error

    monkeypatch.setattr("recipe.data.hub_dataset.require_hub", lambda *_, **__: True)
    monkeypatch.setattr("recipe.data.hub_dataset._builder", fail)
    with pytest.raises(UserError, match=told):
        open_split(DataArguments(dataset_name="my/own"), "train")
