"""What a stranger's model, checkpoint or data file must not be able to do."""

import gzip
import json
import os
import shutil
import tarfile
import zipfile

import pytest
import torch

from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.train import train
from recipe.errors import UserError
from tests.utils import Payload, make_pairs


def test_code_beside_a_model_is_not_run(arguments, tmp_path, tiny_model):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    spy = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("modeling.py", "configuration.py", "tokenization.py"):
        (folder / name).write_text(spy + "class X: pass\n")
    for name, entries in (
        ("config.json", {"AutoConfig": "configuration.X", "AutoModelForSequenceClassification": "modeling.X"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization.X", None]}),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, "auto_map": entries}))
    train(arguments(f"--model_name_or_path={folder}"))
    evaluate(parse(["--do_eval", f"--model_name_or_path={tmp_path / 'run'}", "--use_cpu"]))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_among_a_models_weights_is_not_run(arguments, tmp_path, tiny_model):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"bert.embeddings.word_embeddings.weight": Payload(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds other things than weights, which are not loaded"):
        train(arguments(f"--model_name_or_path={folder}"))
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run").exists()


def make_archive(path, kind, target):
    """An archive under the name of a data file, which names a file outside its folder."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(str(target), "ran")
    else:
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo(str(target))
            archive.addfile(member)


@pytest.mark.parametrize("name", ["train.json.gz", "train.csv.gz", "train.parquet", "train.jsonl"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_in_the_place_of_data_is_an_error_and_unpacks_nothing(arguments, tmp_path, pairs_dir, name, kind):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(pairs_dir / "dev.json", data)
    make_archive(data / name, kind, "../outside")
    with pytest.raises(UserError, match=str(data / name)):
        train(arguments(f"--data_dir={data}"))
    assert sorted(os.listdir(tmp_path)) == ["data"]


def test_a_name_inside_a_gzip_file_is_not_followed(arguments, tmp_path, pairs_dir):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(pairs_dir / "dev.json", data)
    rows = "".join(json.dumps(row) + "\n" for row in make_pairs(20)).encode()
    with open(data / "train.json.gz", "wb") as raw, gzip.GzipFile("../outside.json", "wb", fileobj=raw) as file:
        file.write(rows)
    train(arguments(f"--data_dir={data}", "--prefix_cache=off"))
    assert sorted(os.listdir(tmp_path)) == ["data", "run"]


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/b/c", ".."])
def test_a_hub_name_is_no_path(arguments, tmp_path, name):
    with pytest.raises(UserError, match="--model_name_or_path"):
        train(arguments(f"--model_name_or_path={name}"))
    assert not (tmp_path / "run").exists()
