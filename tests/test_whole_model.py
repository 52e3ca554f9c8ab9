import shutil
import sys

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipe.errors import UserError
from recipe.manifest import open_checkpoint
from recipe.training import train
from recipe.whole_model import main, rebuild
from tests.kill_points import outcome


def test_any_checkpoint_becomes_the_model_of_its_step(arguments, tmp_path, monkeypatch):
    train(arguments("--num_train_epochs=2", "--load_best_model_at_end=false"))
    run = tmp_path / "run"
    last = open_checkpoint(run / "checkpoint-18")
    rebuild(last, tmp_path / "last" / "run")
    assert outcome(tmp_path / "last")[0] == outcome(tmp_path)[0]  # the same bytes
    monkeypatch.setattr(sys, "argv", ["whole_model", str(run / "checkpoint-9"), str(tmp_path / "first")])
    main()
    first, final = (
        AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
        for folder in (tmp_path / "first", run)
    )
    pair = AutoTokenizer.from_pretrained(tmp_path / "first")("花呗", "借呗", return_tensors="pt")
    assert not torch.equal(first(**pair).logits, final(**pair).logits)
    assert first.config.id2label == {0: "different", 1: "same"}


def test_other_base_weights_are_refused(arguments, tmp_path, tiny_model):
    train(arguments())
    checkpoint = open_checkpoint(tmp_path / "run" / "checkpoint-9")
    shutil.copytree(tiny_model, tmp_path / "other")
    from tests.test_resuming import other_model

    other_model(tiny_model, tmp_path / "another")
    with pytest.raises(UserError, match="not the weights that"):
        rebuild(checkpoint, tmp_path / "out", str(tmp_path / "another"))
    rebuild(checkpoint, tmp_path / "out", str(tmp_path / "other"))
    with pytest.raises(UserError, match="there is a model in it"):
        rebuild(checkpoint, tmp_path / "out")
