import json
import re
import shutil
import stat
import sys

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipe.arguments import ModelArguments
from recipe.checkpoints.manifest import open_checkpoint, seal
from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.merge_checkpoint import main, rebuild
from recipe.commands.train import train
from recipe.errors import RunError, UserError
from recipe.model.base_model import open_base
from recipe.model.modeling import BertForPairwiseCLS
from tests.checkpoints.contents import other_model


def test_any_checkpoint_becomes_the_model_of_its_step(arguments, tmp_path, monkeypatch):
    train(arguments("--num_train_epochs=2", "--load_best_model_at_end=false", "--dropout=0.25"))
    run = tmp_path / "run"
    last = open_checkpoint(run / "checkpoint-18")
    rebuild(last, tmp_path / "last" / "run")
    assert (tmp_path / "last" / "run" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    rebuilt, made = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "last" / "run", run))
    assert made["hidden_dropout_prob"] == 0.25
    assert rebuilt | {"use_cache": False} == made  # which the Trainer switches off, and an encoder has no use for
    monkeypatch.setattr(sys, "argv", ["whole_model", str(run / "checkpoint-9"), str(tmp_path / "first")])
    main()
    first, final = (
        AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
        for folder in (tmp_path / "first", run)
    )
    pair = AutoTokenizer.from_pretrained(tmp_path / "first")("花呗", "借呗", return_tensors="pt")
    assert not torch.equal(first(**pair).logits, final(**pair).logits)
    assert first.config.id2label == {0: "different", 1: "same"}
    for folder in (tmp_path / "first", run):
        assert AutoTokenizer.from_pretrained(folder).model_max_length == 32  # --max_length


def test_it_is_scored_on_the_runs_data_read_as_the_run_reads_them(arguments, tmp_path, pairs_dir, monkeypatch, capsys):
    for split in ("train", "dev"):
        text = (pairs_dir / f"{split}.json").read_text().replace("sentence1", "one").replace('"1"', '"yes"')
        (tmp_path / f"{split}.json").write_text(text)
    own = [f"--data_dir={tmp_path}", "--text_column_names=one,sentence2", "--label_names", "0", "yes"]
    train(arguments("--max_length=12", "--learning_rate=1e-2", "--prefix_cache=on", *own))
    run, merged = tmp_path / "run", tmp_path / "merged"
    monkeypatch.setattr(sys, "argv", ["merge_checkpoint", str(run / "checkpoint-9"), str(merged)])
    capsys.readouterr()
    main()
    assert "note:" not in capsys.readouterr().out
    shared = f"--prefix_cache_dir={tmp_path / 'cache'}"
    found = evaluate(parse(["--do_eval", f"--model_name_or_path={merged}", "--use_cpu", shared]))
    scores = json.loads((run / "all_results.json").read_text())
    for name in ("accuracy", "loss", "roc_auc"):
        assert found[f"eval_{name}"] == scores[f"eval_{name}"], name
    assert "dev.json (validation)" in capsys.readouterr().out
    assert json.loads((merged / "run.json").read_text()).keys() == {"arguments", "prefix"}  # and no results


def test_what_a_checkpoint_of_an_earlier_release_does_not_tell_is_said(arguments, tmp_path, monkeypatch, capsys):
    train(arguments("--max_length=12"))
    checkpoint = open_checkpoint(tmp_path / "run" / "checkpoint-9")
    del checkpoint.manifest["evaluated_with"]
    seal(checkpoint.folder, {key: value for key, value in checkpoint.manifest.items() if key != "files"})
    monkeypatch.setattr(sys, "argv", ["merge_checkpoint", str(checkpoint.folder), str(tmp_path / "merged")])
    main()
    assert "earlier release, and where its data are is not known: --do_eval takes --data_dir" in capsys.readouterr().out
    parsed = parse(["--do_eval", f"--model_name_or_path={tmp_path / 'merged'}"])
    assert (parsed.data.max_length, parsed.data.data_dir) == (12, None)


def test_other_base_weights_are_refused(arguments, tmp_path, tiny_model):
    train(arguments())
    checkpoint = open_checkpoint(tmp_path / "run" / "checkpoint-9")
    shutil.copytree(tiny_model, tmp_path / "other")
    other_model(tiny_model, tmp_path / "another")
    with pytest.raises(UserError, match="not the weights that"):
        rebuild(checkpoint, tmp_path / "out", str(tmp_path / "another"))
    rebuild(checkpoint, tmp_path / "out", str(tmp_path / "other"))
    with pytest.raises(UserError, match="there is a model in it"):
        rebuild(checkpoint, tmp_path / "out")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_text("mine")
    with pytest.raises(UserError, match=r"config.json is in it; an empty folder, or a new one"):
        rebuild(checkpoint, tmp_path / "notes")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == {stat.S_IMODE((tmp_path / "run" / "run.json").stat().st_mode)}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").iterdir() if path.is_file()} == modes


def test_a_merge_without_room_leaves_nothing_and_says_so(arguments, tmp_path, monkeypatch):
    train(arguments("--prefix_cache=off"))
    checkpoint = open_checkpoint(tmp_path / "run" / "checkpoint-9")
    out, real = tmp_path / "out", BertForPairwiseCLS.save_pretrained

    def full(self, folder, **kwargs):
        real(self, folder, **kwargs)
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(BertForPairwiseCLS, "save_pretrained", full)
    with pytest.raises(
        RunError, match=rf"{out}: the model cannot be written: .*No space left.*; nothing of it is there"
    ):
        rebuild(checkpoint, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    monkeypatch.undo()
    (tmp_path / "elsewhere").mkdir()
    out.symlink_to(tmp_path / "elsewhere")
    rebuild(checkpoint, out)
    assert outcome_files(out) >= {"config.json", "model.safetensors", "modeling.py", "tokenizer.json"}


def test_a_checkpoint_given_as_a_base_names_the_command_that_makes_it_whole(tmp_path):
    run = tmp_path / "my run"
    checkpoint = run / "checkpoint-9"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainable.safetensors").touch()
    command = f"python -m recipe.commands.merge_checkpoint '{checkpoint}' FOLDER"
    for name, told in ((checkpoint, "a run's checkpoint, which holds the trained"), (run, "a run that has not ended")):
        with pytest.raises(UserError, match=rf"--model_name_or_path {name}: {told}.*: {re.escape(command)}$"):
            open_base(ModelArguments(model_name_or_path=str(name)))


def outcome_files(folder):
    return {path.name for path in folder.iterdir()}
