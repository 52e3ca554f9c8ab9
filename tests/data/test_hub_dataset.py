import pytest

from recipe.arguments import DataArguments
from recipe.data.opening import require_split
from recipe.errors import UserError
from tests.hub_server import ask, hub


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
