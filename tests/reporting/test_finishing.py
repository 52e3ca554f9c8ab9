import json

import pytest

from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.train import train


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
