import json
import os
from pathlib import Path

import pytest

from recipe.checkpoints.manifest import begin
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.reporting.outputs import check_answers, check_output, check_writable, missing_files


@pytest.mark.parametrize("name", ["README.md", "config.json", "run.json", "modeling.py", "tokenizer.json"])
def test_a_folder_with_somebody_elses_files_is_refused_before_anything_is_read(arguments, tmp_path, monkeypatch, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text('{"model_type": "bert"}')
    monkeypatch.chdir(tmp_path / "run")
    for output in (tmp_path / "run", "."):
        with pytest.raises(UserError, match=rf"^--output_dir .*: {name} is there, which no run of this recipe wrote"):
            train(arguments(f"--output_dir={output}", "--train_file=/no/such/file"))
    assert os.listdir() == [name]


def test_a_folder_is_tried_before_it_is_needed(tmp_path):
    (tmp_path / "file").touch()
    check_writable(tmp_path / "new" / "folder")
    long = tmp_path / ("x" * 300)
    for place in (tmp_path / "file", tmp_path / "file" / "folder", long):
        for flag in ("--output_dir", "--space"):
            with pytest.raises(UserError, match=rf"^{flag} {place}: .*; a folder that can be written is expected$"):
                check_writable(place, flag)
    assert os.listdir(tmp_path) == ["file"]


def test_a_run_never_takes_the_place_of_its_base(arguments, tiny_model, tmp_path):
    (tmp_path / "link").symlink_to(tiny_model)
    for output in (tiny_model, tmp_path / "link"):
        with pytest.raises(UserError, match=r"the model to start from is there; name another folder"):
            train(arguments(f"--output_dir={output}"))


def test_what_runs_left_is_no_stranger(tmp_path):
    for name, content in [
        ("run.json", {"identity": {}, "model_sha256": ""}),
        ("config.json", {"model_type": "bert_pairwise_cls"}),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(json.dumps(content))
        (folder / "README.md").write_text("a card")
        check_output(folder, "a/base")
    folder = tmp_path / "stopped"
    (folder / "checkpoint-3").mkdir(parents=True)
    (folder / "README.md").write_text("a card")
    begin(folder / "checkpoint-3")
    check_output(folder, "a/base")
    check_output(tmp_path / "new", "a/base")


def test_scores_and_predictions_go_into_a_folder_that_is_yet_to_be_made(tmp_path):
    check_answers(tmp_path / "new", ["eval_results.json", "predictions.jsonl"])
    check_answers(tmp_path, ["eval_results.json"])
    assert not (tmp_path / "new").exists()


def test_a_folder_in_a_files_place_is_refused_before_anything_is_read(arguments, tmp_path):
    (tmp_path / "run" / "run.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^--output_dir .*: run.json in it is a folder, not a file; move it away$"):
        train(arguments(f"--output_dir={tmp_path / 'run'}", "--train_file=/no/such/file"))


def test_a_path_that_weights_cannot_be_saved_to_is_refused():
    with pytest.raises(UserError, match="its path is not UTF-8"):
        check_output(Path(os.fsdecode(b"\xd6\xd0")), "a/base")


def test_gone_empty_and_torn_files_are_missing(tmp_path):
    (tmp_path / "empty.md").write_text("")
    (tmp_path / "torn.json").write_text('{"a": ')
    (tmp_path / "good.json").write_text("{}")
    (tmp_path / "good.md").write_text("#")
    names = ["empty.md", "gone.md", "good.json", "good.md", "torn.json"]
    assert missing_files(tmp_path, names) == ["empty.md", "gone.md", "torn.json"]
