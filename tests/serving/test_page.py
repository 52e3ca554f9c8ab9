import json
from pathlib import Path

import pytest

from recipe.command_line.parsing import parse
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.serving.asking import ask_validation, load_asked
from tests.utils import make_scored, write_jsonl


def test_a_page_of_scores_speaks_of_no_probabilities(arguments, tmp_path):
    pytest.importorskip("gradio")
    from recipe.serving import page

    for split in ("train", "dev"):
        write_jsonl(tmp_path / f"{split}.json", make_scored(20, 1))
    run = tmp_path / "run"
    train(arguments("--prefix_cache=off", "--task_type=regression", f"--data_dir={tmp_path}", "--model_card=true"))
    words = ["--do_predict", f"--model_name_or_path={run}", "--use_cpu"]
    predict(parse([*words, "--eval_split=validation"]))
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()]
    tried = page.Tried(load_asked(parse(words)), None, tmp_path)
    tried = tried._replace(validation=ask_validation(tried.asked))
    shown = json.dumps(page.build_page(tried).get_config_file(), ensure_ascii=False, default=str)
    assert "mean absolute error" in shown
    assert "Largest errors" in shown
    assert "Pearson's correlation" in shown
    assert "probab" not in shown.replace("probability distribution", "")
    said, *scores = page._said_of_pair(tried.asked, [lines[0]["sentence1"], lines[0]["sentence2"]])
    assert scores[0] == pytest.approx(lines[0]["prediction"], abs=1e-5)
    assert f"score {scores[0]:.6f}" in said
    assert f"mean: {sum(scores) / 2:.4f}"[:-1] in said
    _, answers, rows = page._said_of_file(tried, str(tmp_path / "dev.json"), ["sentence1", "sentence2", "prediction"])
    assert rows[0][2] == pytest.approx(lines[0]["prediction"], abs=1e-5)
    assert len(Path(answers).read_text("utf-8").splitlines()) == 20


def test_an_undefined_score_of_the_run_is_told_in_a_word(tmp_path):
    gradio = pytest.importorskip("gradio")
    from recipe.serving import page

    (tmp_path / "all_results.json").write_text(json.dumps({"eval_pearson": None, "eval_mse": 0.5}))
    with gradio.Blocks() as blocks:
        page._run_tab(tmp_path)
    (table,) = [part["props"] for part in blocks.get_config_file()["components"] if part["type"] == "dataframe"]
    assert table["value"]["data"] == [["Pearson's correlation", "undefined"], ["mean squared error", "0.5000"]]
