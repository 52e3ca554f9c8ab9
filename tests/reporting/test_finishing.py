import json
import sys
from pathlib import Path

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


def test_what_is_of_an_earlier_model_goes_when_another_takes_its_place(arguments, tmp_path, capsys):
    folder = tmp_path / "run"
    train(arguments("--model_card=true", "--num_train_epochs=2"))
    predict(parse(["--do_predict", f"--model_name_or_path={folder}", "--use_cpu"]))
    evaluate(parse(["--do_eval", f"--model_name_or_path={folder}", "--use_cpu", "--eval_split=train"]))
    (folder / "own_predict.json").write_text("{}")  # the user's
    (folder / "stock").mkdir()
    answers = {"predictions.jsonl", "afqmc_predict.json", "eval_results_train.json"}
    cards = {"README.md", "learning_curve.png", "confusion.png", "reliability.png"}
    assert answers | cards | {"eval_results.json"} <= {path.name for path in folder.iterdir()}
    train(arguments("--resume=never", "--num_train_epochs=2"))  # the same model, to the last bit
    there = {path.name for path in folder.iterdir()}
    assert answers | {"eval_results.json"} <= there
    assert not cards & there
    assert "of an earlier model" not in capsys.readouterr().out
    train(arguments("--resume=never", "--learning_rate=1e-2", "--eval_strategy=no"))
    there = {path.name for path in folder.iterdir() if path.is_file()}
    assert there == {*json.loads((folder / "run.json").read_text())["files"], "run.json", "own_predict.json"}
    assert f"note: {folder / 'stock'} is of an earlier model; make export makes it anew" in capsys.readouterr().out


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
    there = [f"--output_dir={beside}", "--data_dir", str(beside / "data")]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "run_freeze.py"), "--seed", "1", *there, *secret, "--push_to_hub"])

    def gone(*_, **__):
        raise ConnectionError("no route\nto host")

    with hub({"models/someone/run": pushed}) as endpoint:
        ask(endpoint, monkeypatch)
        parsed = arguments("--model_card=true", "--push_to_hub=true", "--report_to=tensorboard", *secret)
        with monkeypatch.context() as patched:
            patched.setattr(HfApi, "create_commit", gone)
            told = r"^--push_to_hub: ConnectionError: no route to host; the model is whole in .*run, and the same"
            with pytest.raises(RunError, match=told):
                train(parsed)
        written = (beside / "model.safetensors").stat().st_mtime_ns
        predict(parse(["--do_predict", f"--model_name_or_path={beside}", "--use_cpu"]))
        evaluate(parse(["--do_eval", f"--model_name_or_path={beside}", f"--against={beside}", "--use_cpu"]))
        there = {path.name for path in beside.iterdir()}
        assert {"predictions.jsonl", "afqmc_predict.json", "checkpoint-9"} <= there
        assert "pushed" not in capsys.readouterr().out
        train(parsed)  # which has finished, and is pushed
        assert capsys.readouterr().out.splitlines()[-1] == f"pushed          {endpoint}/someone/run"
        assert (beside / "model.safetensors").stat().st_mtime_ns == written
    found = {path.relative_to(pushed).as_posix() for path in pushed.rglob("*") if path.is_file()}
    assert [name for name in found - set(NAMES) if "/events.out.tfevents." not in name] == []
    assert set(NAMES) - found == {SCATTER}
    for name in found - {"run.json", "trainer_state.json", "eval_results.json", "README.md"}:
        assert (pushed / name).read_bytes() == (beside / name).read_bytes()
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"hf_secret" not in path.read_bytes(), path
    card = (pushed / "README.md").read_text()
    here = (beside / "README.md").read_text()
    assert card == here.replace(
        'pipeline("text-classification", "run",', 'pipeline("text-classification", "someone/run",'
    )
    assert '"someone/run"' in card
    assert "python run_freeze.py --seed 1 --output_dir=run --data_dir data --push_to_hub\n" in card


def test_what_is_pushed_names_no_folder_of_this_machine(arguments, pairs_dir, tiny_model, tmp_path, monkeypatch):
    run, pushed = tmp_path / "run", tmp_path / "pushed"
    monkeypatch.setattr(
        sys, "argv", [str(tmp_path / "run_freeze.py"), f"--output_dir={run}", "--data_dir", str(pairs_dir)]
    )
    with hub({"models/someone/run": pushed}) as endpoint:
        ask(endpoint, monkeypatch)
        parsed = arguments("--model_card=true", "--report_to=tensorboard", "--hub_token=hf_x", "--push_to_hub=true")
        train(parsed)
        evaluate(parse(["--do_eval", f"--model_name_or_path={run}", f"--against={run}", "--use_cpu"]))
        train(parsed)
    found = [path for path in pushed.rglob("*") if path.is_file()]
    for path in found:
        content = path.read_bytes()
        for place in (tmp_path, pairs_dir, tiny_model, Path.home() / ".cache"):
            assert str(place).encode() not in content, path
    sent = {path.name: json.loads(path.read_text()) for path in found if path.suffix == ".json"}
    here = json.loads((run / "run.json").read_text())
    assert (sent["run.json"]["arguments"]["data"]["data_dir"], here["arguments"]["data"]["data_dir"]) == (
        pairs_dir.name,
        str(pairs_dir),
    )
    assert sent["run.json"].keys() == here.keys()
    assert sent["trainer_state.json"]["best_model_checkpoint"] == "checkpoint-9"
    assert sent["eval_results.json"]["eval_source"] == "dev.json"
    assert sent["eval_results.json"]["eval_mcnemar"]["against"] == "run"
