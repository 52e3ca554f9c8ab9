import json
import sys

import pytest
from huggingface_hub import HfApi

from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import RunError
from recipe.file_names import SCATTER
from recipe.reporting.outputs import NAMES
from tests.hub_server import ask, hub


def test_the_last_model_is_reported_as_the_last(arguments, tmp_path, capsys):
    words = ["--load_best_model_at_end=false", "--num_train_epochs=3", "--learning_rate=3e-2"]
    train(arguments(*words))
    folder = tmp_path / "run"
    results = json.loads((folder / "all_results.json").read_text())
    out = capsys.readouterr().out
    assert f"last accuracy   {results['eval_accuracy']:.4f} after epoch 3 " in out
    state = json.loads((folder / "trainer_state.json").read_text())
    logged = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert state["best_global_step"] < state["global_step"] == 27
    assert results["eval_loss"] == pytest.approx(logged[-1], abs=1e-6)
    metrics = evaluate(parse(["--do_eval", f"--model_name_or_path={folder}", "--use_cpu"]))
    assert metrics["eval_accuracy"] == results["eval_accuracy"]
    assert metrics["eval_loss"] == pytest.approx(results["eval_loss"], abs=1e-6)


@pytest.fixture
def beside(tmp_path):
    """A run's folder with what its user has put there or has made there, before and while it is trained and asked."""
    folder = tmp_path / "run"
    for name in ("notes.txt", "data/train.json", "runs/sentences.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    for name in (
        "predictions-0123456789ab.partial.jsonl",
        f".predictions.jsonl.{'0' * 32}.partial",
        "old_predict.json",
    ):
        (folder / name).write_text("{}")
    return folder


def test_a_push_takes_the_runs_own_files_and_no_answers(arguments, beside, tmp_path, monkeypatch, capsys):
    pushed = tmp_path / "pushed"
    secret = ["--hub_token=hf_secret1", "--hub-token", "hf_secret2"]
    monkeypatch.setattr(sys, "argv", ["run_freeze.py", "--seed", "1", *secret, "--push_to_hub"])

    def gone(*_, **__):
        raise ConnectionError("no route\nto host")

    with hub({"models/someone/run": pushed}) as endpoint:
        ask(endpoint, monkeypatch)
        parsed = arguments("--model_card=true", "--push_to_hub=true", "--report_to=tensorboard", *secret)
        with monkeypatch.context() as patched:
            patched.setattr(HfApi, "upload_folder", gone)
            told = r"^--push_to_hub: ConnectionError: no route to host; the model is whole in .*run, and the same"
            with pytest.raises(RunError, match=told):
                train(parsed)
        written = (beside / "model.safetensors").stat().st_mtime_ns
        predict(parse(["--do_predict", f"--model_name_or_path={beside}", "--use_cpu"]))
        there = {path.name for path in beside.iterdir()}
        assert {"predictions.jsonl", "afqmc_predict.json", "checkpoint-9"} <= there
        assert "pushed" not in capsys.readouterr().out
        train(parsed)  # which has finished, and is pushed
        assert capsys.readouterr().out.splitlines()[-1] == f"pushed          {endpoint}/someone/run"
        assert (beside / "model.safetensors").stat().st_mtime_ns == written
    found = {path.relative_to(pushed).as_posix() for path in pushed.rglob("*") if path.is_file()}
    assert [name for name in found - set(NAMES) if "/events.out.tfevents." not in name] == []
    assert set(NAMES) - found == {SCATTER}
    for name in found:
        assert (pushed / name).read_bytes() == (beside / name).read_bytes()
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"hf_secret" not in path.read_bytes(), path
    card = (pushed / "README.md").read_text()
    assert "## What was frozen" in card
    assert "python run_freeze.py --seed 1 --push_to_hub\n" in card
