import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

from recipe.arguments import ModelArguments
from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.model.base_model import name_labels, open_base
from recipe.model.loading import load_model
from tests.published import open_folder
from tests.utils import make_pairs, write_jsonl


def test_a_model_that_is_no_bert_is_refused(arguments, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="a gpt2 model; a BERT, ERNIE or ELECTRA checkpoint"):
        train(arguments(f"--model_name_or_path={tmp_path}"))


@pytest.mark.parametrize(
    ("name", "owner"),
    [("bert-base-chinese", "google-bert"), ("chinese-roberta-wwm-ext", "hfl"), ("ernie-3.0-base-zh", "nghuyong")],
)
def test_a_name_without_its_owner_is_answered_with_it(name, owner):
    with pytest.raises(UserError, match=f"did you mean {owner}/{name}"):
        open_folder(name)


@pytest.fixture(scope="module")
def stock_classifier(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock") / "model"
    torch.manual_seed(1)
    BertForSequenceClassification.from_pretrained(tiny_model, num_labels=2).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, folder)
    return folder


def test_a_stock_classifier_is_neither_reused_nor_scored(stock_classifier, pairs_dir):
    base = open_folder(stock_classifier)
    assert name_labels(base, ["LABEL_0", "LABEL_1"], "pairs") is False
    torch.manual_seed(2)
    model = load_model(base)
    stored = load_file(stock_classifier / "model.safetensors")["classifier.weight"]
    assert not torch.equal(model.classifier.weight, stored)
    assert float(model.classifier.weight.detach().std()) < 0.1  # drawn anew
    for task in ("--do_eval", "--do_predict"):
        words = [task, f"--model_name_or_path={stock_classifier}", f"--data_dir={pairs_dir}", "--use_cpu"]
        with pytest.raises(UserError, match="a stock one's reads a pooler and would answer otherwise"):
            evaluate(parse(words))


def test_a_run_goes_on_with_its_classifier_only_under_the_same_names(arguments, tmp_path, capsys):
    train(arguments())
    run = tmp_path / "run"
    stored = load_file(run / "model.safetensors")["classifier.weight"]
    for names, kept in ((["0", "1"], True), (["1", "0"], False), (["no", "yes"], False), (["0", "1", "2"], False)):
        base = open_folder(run)
        assert name_labels(base, names, "pairs") is kept
        assert torch.equal(load_model(base, keep_classifier=kept).classifier.weight, stored) is kept
    capsys.readouterr()
    train(arguments(f"--model_name_or_path={run}", f"--output_dir={tmp_path / 'second'}"))
    assert f"classifier: goes on from that of {run}; labels different, same" in capsys.readouterr().out
    rows = [{**row, "label": "yes" if row["label"] == "1" else "no"} for row in make_pairs(24)]
    for split in ("train", "dev"):
        write_jsonl(tmp_path / f"{split}.json", rows)
    words = [f"--data_dir={tmp_path}", "--label_names", "yes", "no", f"--output_dir={tmp_path / 'third'}"]
    train(arguments(f"--model_name_or_path={run}", *words))
    assert "classifier: new; labels yes, no" in capsys.readouterr().out


def test_a_download_that_stopped_is_no_copy(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--some--model" / "refs").mkdir(parents=True)
    (tmp_path / "models--some--model" / "refs" / "main").write_text("a" * 40)
    snapshot = tmp_path / "models--some--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    args = ModelArguments(model_name_or_path="some/model")
    for name in ("config.json", "pytorch_model.bin"):
        (snapshot / name).write_text("{}")
        with pytest.raises(UserError, match="no folder here; HF_HUB_OFFLINE is set and there is no whole copy"):
            open_base(args)
    (snapshot / "vocab.txt").write_text("")
    with pytest.raises(UserError, match="a model without model_type"):  # read from the copy
        open_base(args)
