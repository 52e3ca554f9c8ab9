import errno
import json
import os
import re
import shutil
import subprocess
import sys

import datasets
import pytest
from datasets.iterable_dataset import ExamplesIterable
from huggingface_hub import HfApi
from transformers import BertModel

from recipe.arguments import DataArguments, ModelArguments
from recipe.commands.check_data import check_data
from recipe.commands.train import train
from recipe.data.opening import open_split, require_split
from recipe.data.splits import iterate
from recipe.errors import RunError, UserError
from recipe.model.base_model import open_base
from recipe.model.loading import load_model
from recipe.model.tokenizer import load_tokenizer
from recipe.system.hub import require_hub
from tests.hub_server import FAULTS, ask, hub
from tests.published import publish
from tests.utils import ROOT, make_pairs

CARD = """---
configs:
- config_name: afqmc
  data_files:
  - {split: train, path: afqmc/train-*}
  - {split: validation, path: afqmc/validation-*}
dataset_info:
- config_name: afqmc
  features:
  - {name: sentence1, dtype: string}
  - {name: sentence2, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': '0', '1': '1'}}}
  - {name: idx, dtype: int32}
  splits:
  - {name: train, num_bytes: 1000, num_examples: 48}
  - {name: validation, num_bytes: 1000, num_examples: 20}
  download_size: 1000
  dataset_size: 2000
---
"""


@pytest.fixture(scope="module")
def afqmc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clue")
    names = datasets.ClassLabel(names=["0", "1"])
    text, number = datasets.Value("string"), datasets.Value("int32")
    features = datasets.Features({"sentence1": text, "sentence2": text, "label": names, "idx": number})
    (folder / "afqmc").mkdir()
    for split, count in (("train", 48), ("validation", 20)):
        rows = [{**row, "label": int(row["label"]), "idx": i} for i, row in enumerate(make_pairs(count, count))]
        shards = [rows[:5], rows[5:40], rows[40:]] if split == "train" else [rows]
        for number, shard in enumerate(shards):
            table = datasets.Dataset.from_list(shard, features=features)
            table.to_parquet(folder / "afqmc" / f"{split}-{number:05}-of-{len(shards):05}.parquet")
    (folder / "README.md").write_text(CARD)
    return folder


def command(endpoint, tmp_path, *words):
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, str(ROOT / "run_freeze.py"), *words]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)


def run(endpoint, tmp_path, *words):
    base = ["--max_length", "32", "--use_cpu", "--num_train_epochs", "2", "--prefix_cache", "off"]
    return command(endpoint, tmp_path, *base, *words)


@pytest.mark.parametrize("reading", ["--streaming", "--no_streaming"])
def test_the_default_names_are_loaded_from_the_hub_over_a_line_that_breaks(
    tiny_model, afqmc, tmp_path, monkeypatch, reading
):
    FAULTS["left"] = 1
    published = publish(tiny_model, tmp_path / "published", "bert-base-chinese")
    with hub({"models/google-bert/bert-base-chinese": published, "datasets/clue/clue": afqmc}) as endpoint:
        done = run(endpoint, tmp_path, reading)
    assert done.returncode == 0, done.stderr
    assert FAULTS["left"] == 0
    assert "peer closed connection" in done.stderr  # and was asked again for the rest
    assert "train: 48 pairs from clue/clue afqmc train" in done.stdout
    results = json.loads((tmp_path / "outputs" / "freeze" / "all_results.json").read_text())
    assert results["epoch"] in (1.0, 2.0)
    if reading == "--no_streaming":
        without_the_hub(monkeypatch, tmp_path)


@pytest.mark.parametrize("reading", ["--streaming", "--no_streaming"])
def test_rows_that_the_hub_refuses_are_not_said_to_come_later(small_hub, tiny_model, afqmc, tmp_path, reading):
    """Of a gated set it tells files and metadata, and gives none of the rows."""
    FAULTS["forbidden"] = ".parquet"
    with hub({"datasets/clue/clue": afqmc}) as endpoint:
        done = run(endpoint, tmp_path, reading, "--model_name_or_path", str(tiny_model))
    told = done.stderr.splitlines()[-1]
    assert re.search(r"refuses what comes without a token \(status 403\); set HF_TOKEN to one$", told), done.stderr
    assert done.returncode == 2
    assert not (tmp_path / "outputs" / "freeze").exists()


def test_hub_data_in_a_form_that_is_not_read_from_there_name_a_way_out(tiny_model, afqmc, tmp_path):
    for name in ("undivided", "script"):
        (tmp_path / name).mkdir()
    shutil.copy(next((afqmc / "afqmc").glob("train-*")), tmp_path / "undivided" / "train.parquet")
    (tmp_path / "script" / "script.py").write_text("names = 1")
    way = "hf download my/{} --repo-type dataset --local-dir FOLDER brings"
    with hub({f"datasets/my/{name}": tmp_path / name for name in ("undivided", "script")}) as endpoint:
        for name, reading in (("undivided", "--streaming"), ("undivided", "--no_streaming"), ("script", "--streaming")):
            words = ["--dataset_name", f"my/{name}", "--dataset_config_name", "", reading]
            done = run(endpoint, tmp_path, *words, "--model_name_or_path", str(tiny_model))
            assert done.returncode == 2
            assert way.format(name) in done.stderr
            assert ("SPLIT=0.1" in done.stderr) == (name == "undivided")


def without_the_hub(monkeypatch, tmp_path):
    """What --no_streaming has prepared does where HF_HUB_OFFLINE is set, or nobody answers, under either reading."""
    known = json.loads((tmp_path / "outputs" / "freeze" / "run.json").read_text())["identity"]["data"]["train"]
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "home" / "datasets")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    for offline, streaming in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        split = open_split(DataArguments(streaming=streaming), "train")
        labels = [pair["label"] for pair in iterate(split.pairs)]
        assert labels == [int(row["label"]) for row in make_pairs(48, 48)]
        assert split.fingerprint == known  # so that a run begun with the Hub can be resumed without
        assert [json.loads(pair["id"]) for pair in iterate(split.pairs)] == list(range(48))
    (told,) = (tmp_path / "home" / "datasets").glob("clue___clue/afqmc/*/*/dataset_info.json")
    told.write_text(told.read_text().replace('["0", "1"]', '["1", "0"]'))
    split = open_split(DataArguments(), "train")  # the same ids under names in another order
    assert split.label_names == ["1", "0"]
    assert [pair["label"] for pair in iterate(split.pairs)] == labels
    split = open_split(DataArguments(label_names=["0", "1"], max_train_samples=7), "train")
    assert split.shards == 1
    assert [pair["label"] for pair in iterate(split.pairs)] == [1 - label for label in labels[:7]]


@pytest.fixture
def small_hub(monkeypatch, tiny_model):
    """A Hub that this process asks."""
    with hub({"models/some/model": tiny_model}) as endpoint:
        ask(endpoint, monkeypatch)
        yield
    FAULTS.update(busy=0, free=0, wait=0, slow=0, expired=None, forbidden=None)


def test_a_busy_hub_is_asked_again(small_hub):
    FAULTS["busy"] = 1
    assert require_hub("--model_name_or_path", "some/model", "model")
    assert FAULTS["busy"] == 0
    FAULTS["busy"] = 99
    with pytest.raises(UserError, match=r"is busy \(status 429\), and still was"):
        require_hub("--model_name_or_path", "some/model", "model")
    FAULTS.update(busy=99, wait=900)
    with pytest.raises(UserError, match=r"is busy \(status 429\) and asks to wait longer than 60 s; try later"):
        require_hub("--model_name_or_path", "some/model", "model")
    assert FAULTS["busy"] == 98


def test_a_slow_hub_is_waited_for_as_long_as_its_own_clients_wait(small_hub, monkeypatch):
    FAULTS["slow"] = 2
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 9)
    assert require_hub("--model_name_or_path", "some/model", "model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.5)
    with pytest.raises(UserError, match=r"\(.*timed out; HF_HUB_ETAG_TIMEOUT=60, seconds, waits longer\)"):
        require_hub("--model_name_or_path", "some/model", "model")


def test_a_token_that_no_header_can_carry_is_named(small_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "令牌")
    with pytest.raises(UserError, match="HF_TOKEN holds characters that no token has"):
        require_hub("--model_name_or_path", "some/model", "model")


def test_an_expired_token_is_named_and_no_mirror(small_hub, monkeypatch):
    FAULTS["expired"] = "hf_old"
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(UserError, match=r"does not take the token \(status 401\).*set HF_TOKEN") as error:
        require_hub("--model_name_or_path", "some/model", "model")
    assert "mirror" not in str(error.value)
    assert not require_hub("--model_name_or_path", "some/model", "model", cached=True)


def load(name):
    base = open_base(ModelArguments(model_name_or_path=name))
    return load_tokenizer(base), load_model(base)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_a_file_that_the_hub_refuses_is_not_taken_for_one_that_is_missing(small_hub, tmp_path, monkeypatch, name):
    """As transformers takes it, which without tokenizer_config.json makes another tokenizer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    FAULTS["forbidden"] = f"/{name}"
    with pytest.raises(UserError, match=rf"some/model: {name}: http.*without a token \(status 403\); set HF_TOKEN"):
        load("some/model")


def test_weights_in_shards_are_fetched_whole(tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("model.safetensors"))
    BertModel.from_pretrained(tiny_model).save_pretrained(tmp_path / "model", max_shard_size="100KB")
    shards = sorted((tmp_path / "model").glob("model-*.safetensors"))
    assert len(shards) > 1
    with hub({"models/some/sharded": tmp_path / "model", "models/some/other": tmp_path / "model"}) as endpoint:
        ask(endpoint, monkeypatch)
        found = load("some/sharded")[1].bert.state_dict()
        expected = BertModel.from_pretrained(tiny_model, add_pooling_layer=False).state_dict()
        assert all(found[name].equal(value) for name, value in expected.items())
        shards[-1].unlink()
        with pytest.raises(UserError, match=rf"some/other: no {shards[-1].name} on the Hub, where model.safetensors.i"):
            load("some/other")
        (tmp_path / "model" / "model.safetensors.index.json").rename(tmp_path / "model" / "tf_model.h5")
        with pytest.raises(UserError, match=r"some/other: none of model.safetensors, .* on the Hub"):
            load("some/other")
        (tmp_path / "model" / "config.json").unlink()
        with pytest.raises(UserError, match=r"some/other: no config.json on the Hub"):
            load("some/other")


@pytest.mark.parametrize("name", ["google-bert/bert-base-chinese@main", "my models/bert", "a/b/c", "./a", "~/a", "a/"])
def test_a_name_that_the_hub_cannot_have_is_told_without_asking_it(small_hub, name):
    with pytest.raises(UserError, match="no such folder; a folder or OWNER/NAME on the Hub is expected"):
        open_base(ModelArguments(model_name_or_path=name))
    with pytest.raises(UserError, match=f"--dataset_name {name}: OWNER/NAME on the Hub is expected; files are read by"):
        require_split(DataArguments(dataset_name=name), "train")


def test_a_hub_that_is_gone_in_the_middle_ends_the_run_in_a_line():
    def rows():
        yield 0, {"sentence1": "a"}
        raise ConnectionError("peer closed\nconnection")

    examples = datasets.IterableDataset(ExamplesIterable(rows, {}))
    with pytest.raises(RunError, match="cannot be read on from the Hub: peer closed connection; the same command"):
        list(iterate(examples))


@pytest.fixture
def promised(arguments, afqmc, tmp_path, monkeypatch):
    """A function: extra words -> a run's arguments, on a Hub whose metadata promise 50 rows where there are 48."""
    (tmp_path / "wrong").mkdir()
    for path in (afqmc / "afqmc").iterdir():
        (tmp_path / "wrong" / "afqmc").mkdir(exist_ok=True)
        (tmp_path / "wrong" / "afqmc" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "wrong" / "README.md").write_text(CARD.replace("num_examples: 48", "num_examples: 50"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", str(tmp_path / "modules"))

    def build(*words):
        parsed = arguments(*words)
        parsed.data.data_dir = None
        return parsed

    with hub({"datasets/clue/clue": tmp_path / "wrong"}) as endpoint:
        ask(endpoint, monkeypatch)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", endpoint)
        yield build


@pytest.mark.parametrize("cache", ["on", "off"])
def test_metadata_that_promises_other_rows_is_found_out(promised, cache):
    told = "clue/clue afqmc train: 48 rows, where its metadata or an earlier pass said 50"
    with pytest.raises(UserError, match=told):
        train(promised(f"--prefix_cache={cache}"))


def test_check_data_says_that_the_metadata_promise_other_rows(promised, capsys):
    check_data(promised())
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == [
        "train           50 pairs from clue/clue afqmc train",
        "  rows          48 were read, where the data set's metadata says 50; a run refuses that",
    ]
    assert sum(line.startswith("  rows") for line in told) == 1  # validation has as many as it says


def test_a_model_from_the_hub_is_scored_as_its_run_read_its_data(arguments, pairs_dir, tmp_path):
    """Also where it is in the cache alone; of a model without run.json a line says so."""
    train(arguments("--prefix_cache=on", "--max_length=12", "--learning_rate=1e-2"))
    folder, scores = tmp_path / "run", json.loads((tmp_path / "run" / "all_results.json").read_text())
    words = ["--do_eval", "--model_name_or_path=some/run", "--use_cpu", f"--prefix_cache_dir={tmp_path / 'cache'}"]

    def evaluated(endpoint, *more):
        done = command(endpoint, tmp_path, *words, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / "outputs" / "freeze" / "eval_results.json").read_text())

    with hub({"models/some/run": folder}) as endpoint:
        told, found = evaluated(endpoint)
        assert "is not known" not in told
        assert (found["eval_loss"], found["eval_source"]) == (scores["eval_loss"], str(pairs_dir / "dev.json"))
    assert evaluated("http://127.0.0.1:9")[1]["eval_loss"] == scores["eval_loss"]
    (folder / "run.json").unlink()
    shutil.rmtree(tmp_path / "home")
    with hub({"models/some/run": folder}) as endpoint:
        told, found = evaluated(endpoint, "--data_dir", str(pairs_dir), "--max_length", "32")
    assert "note: some/run: no run.json with it: how its run read its data, and where they are, is not known" in told
    assert found["eval_loss"] != scores["eval_loss"]


def test_without_a_hub_it_fails_quickly_with_three_ways_out(tmp_path):
    done = run("http://127.0.0.1:9", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for way in ("--model_name_or_path", "--data_dir", "HF_ENDPOINT", "make demo"):
        assert way in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "look_for",
    [
        lambda: open_base(ModelArguments(model_name_or_path="some/model")),
        lambda: require_split(DataArguments(), "train"),
        lambda: require_split(DataArguments(streaming=False), "train"),
    ],
)
def test_a_hub_that_is_not_there_is_asked_once(monkeypatch, look_for):
    """Its clients ask five times, and wait twice as long before each."""
    asked, slept, real = [], [], HfApi.repo_info
    monkeypatch.setattr(HfApi, "repo_info", lambda *given, **more: asked.append(given) or real(*given, **more))
    monkeypatch.setattr("time.sleep", slept.append)
    ask("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(UserError, match=r"cannot be fetched from http://127.0.0.1:9 \(.*make demo$"):
        look_for()
    assert len(asked) == 1
    assert slept == []


def test_offline_without_a_copy_says_so():
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set and there is no whole copy"):
        require_hub("--model_name_or_path", "some/model", "model")


def test_a_copy_that_cannot_be_locked_is_not_told_of_as_none(monkeypatch):
    def read_only(**_):
        raise OSError(errno.EROFS, "Read-only file system", "afqmc.lock")

    monkeypatch.setattr("recipe.data.hub_dataset.Cache", read_only)
    with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\).* with HF_HOME"):
        open_split(DataArguments(), "train")


def test_a_cache_folder_that_cannot_be_made_is_named(small_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", f"{__file__}/hub")
    with pytest.raises(UserError, match=r"cannot be kept in .*/hub \(Not a directory\); name another.*HF_HOME"):
        require_hub("--model_name_or_path", "some/model", "model")


def test_a_proxy_that_lacks_a_package_is_one_line(monkeypatch):
    def repo_info(*_, **__):
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.\nMake sure to")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", repo_info)
    with pytest.raises(UserError, match=r"^--model_name_or_path a/b: no folder here; Using SOCKS.*ALL_PROXY") as error:
        require_hub("--model_name_or_path", "a/b", "model")
    assert "\n" not in str(error.value)
