import json

from recipe.commands.train import train
from recipe.reporting import finishing
from recipe.reporting import model_card as card
from tests.utils import history


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_fails_behind_the_model_costs_nothing_and_is_made_later(arguments, tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise ValueError("no such backend\nat all")

    words, folder = ["--model_card=true", "--save_strategy=no", "--eval_strategy=epoch"], tmp_path / "run"
    words += ["--load_best_model_at_end=false"]
    with monkeypatch.context() as patch:
        patch.setattr(card, "draw_reliability", broken)
        train(arguments(*words))
    out = capsys.readouterr().out
    assert (
        "warning: README.md and its figures could not be made: ValueError: no such backend at all; the model is" in out
    )
    assert not (folder / "README.md").exists()
    model = (folder / "model.safetensors").read_bytes()
    assert train(arguments(*words)) is None
    out = capsys.readouterr().out
    assert "of the finished run README.md, confusion.png, learning_curve.png, reliability.png are made again" in out
    assert "this run has finished" in out
    whole = files_of(folder)
    assert whole["model.safetensors"] == model
    assert any("eval_f1" in entry for entry in json.loads(whole["trainer_state.json"])["log_history"])
    assert b"![reliability](reliability.png)" in whole["README.md"]
    told = json.loads(whole["run.json"])
    told["results"]["eval"]["eval_accuracy"] = 0.25  # what was found then is not found anew, in another precision
    told |= {"peak_memory_bytes": 123 * 10**9, "earlier_train_seconds": 77.0}
    assert told["command"].encode() in whole["README.md"]
    told |= {"command": "python run_freeze.py then.yaml", "versions": {"torch": "1.2.3"}}
    (folder / "run.json").write_text(json.dumps(told))
    (folder / "README.md").unlink()
    for name in whole.keys() - {"model.safetensors", "run.json", "trainer_state.json", "README.md"}:
        (folder / name).write_text("") if name > "f" else (folder / name).unlink()
    train(arguments(*words))
    again = files_of(folder)
    assert again.keys() == whole.keys()
    for name in whole:
        if not name.endswith((".json", ".md")) or name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            assert again[name] == whole[name], name
    assert b"s (before a stop 77 s more), evaluating" in again["README.md"]
    assert b"\npython run_freeze.py then.yaml\n" in again["README.md"]
    assert again["README.md"].endswith(b"\ntorch 1.2.3\n")
    assert b"; peak memory 123.00 GB." in again["README.md"]  # the run's, and not of who made the card again
    results = [json.loads(files["all_results.json"]) for files in (whole, again)]
    assert {**results[0], "eval_accuracy": 0.25} == results[1]
    train(arguments(*words))
    assert "made again" not in capsys.readouterr().out.split("this run has finished")[1]


def test_a_model_that_cannot_be_scored_is_written_all_the_same(arguments, tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of luck")

    train(arguments("--num_train_epochs=2"))  # whose scores are another model's
    with monkeypatch.context() as patch:
        patch.setattr(finishing, "answer_pairs", broken)
        report = train(arguments("--model_card=true", "--resume=never"))
    assert "warning: the model could not be scored: RuntimeError: out of luck" in capsys.readouterr().out
    folder = tmp_path / "run"
    assert (folder / "model.safetensors").is_file()
    assert not {"README.md", "eval_results.json"} & files_of(folder).keys()
    train(arguments("--model_card=true"))
    results = json.loads((folder / "eval_results.json").read_text())
    assert results["eval_accuracy"] == report.metrics["eval_accuracy"] == history(folder, "eval_accuracy")[-1]
    assert "eval_f1" in json.loads((folder / "all_results.json").read_text())
    assert b"## Scores on 30 validation pairs" in (folder / "README.md").read_bytes()


def test_code_is_made_again_with_what_it_imports(arguments, tmp_path):
    folder = tmp_path / "run"
    train(arguments())
    whole = files_of(folder)
    (folder / "cls_layer.py").unlink()  # as of a release in which modeling.py stood alone
    record = json.loads(whole["run.json"])
    record["files"].remove("cls_layer.py")
    (folder / "run.json").write_text(json.dumps(record))
    train(arguments())
    assert not (folder / "cls_layer.py").exists()
    (folder / "modeling.py").unlink()
    train(arguments())
    assert all(files_of(folder)[name] == whole[name] for name in ("modeling.py", "cls_layer.py"))
