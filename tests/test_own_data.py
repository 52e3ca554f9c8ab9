"""The walk of docs/own_data.md, command by command, on a small export; its Chinese version says the same."""

import csv
import json
import re
import runpy
import shlex
import sys

import pytest

from tests.utils import ROOT, make_pairs

DOCS = ("own_data.md", "own_data.zh-CN.md")


def blocks(name, language):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def write_export(path, header, rows):
    with open(path, "w", encoding="utf-8-sig", newline="") as file:  # as Excel writes "CSV UTF-8"
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def export(tmp_path, monkeypatch):
    """A folder with questions.csv and own.yaml as the page has them, but for the model, which is the embedded one."""
    monkeypatch.chdir(tmp_path)
    header = next(csv.reader(blocks(DOCS[0], "csv")[0].splitlines()))
    pairs = make_pairs(60, 1)
    rows = [[n, row["sentence1"], row["sentence2"], "否是"[int(row["label"])]] for n, row in enumerate(pairs)]
    write_export(tmp_path / "questions.csv", header, rows)
    write_export(tmp_path / "new.csv", header[:-1], [row[:-1] for row in rows[:7]])
    text = blocks(DOCS[0], "yaml")[0].replace("google-bert/bert-base-chinese", str(ROOT / "demo" / "model"))
    more = f"num_train_epochs: 1\nmodel_card: false\nprefix_cache_dir: {tmp_path / 'cache'}\n"
    (tmp_path / "own.yaml").write_text(text + more, encoding="utf-8")
    return tmp_path


def run(command, monkeypatch):
    """Run a command of the page in this process; it ends the process where it fails."""
    words = shlex.split(command)[1:]
    if words[0] == "-m":
        run_module(words[1], words[2:], monkeypatch)
        return
    monkeypatch.setattr(sys, "argv", [str(ROOT / words[0]), *words[1:]])
    runpy.run_path(sys.argv[0], run_name="__main__")


def run_module(name, words, monkeypatch):
    """python -m, as in a process of its own: another test may have imported the module, of which runpy warns."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.delitem(sys.modules, name, raising=False)
    runpy.run_module(name, run_name="__main__")


def test_every_command_of_the_walk(export, monkeypatch, capsys):
    commands = [line for block in blocks(DOCS[0], "bash") for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        run(command, monkeypatch)
    out = capsys.readouterr().out
    assert "split-0.1-seed-42/validation.json" in out
    answers = [json.loads(line) for line in (export / "outputs/own/predictions.jsonl").read_text().splitlines()]
    assert [(row["id"], row["label"]) for row in answers] == [(number, None) for number in range(7)]
    assert {row["prediction"] for row in answers} <= {"否", "是"}
    assert not list((export / "outputs/own").glob("*_predict.json"))  # the questions are no task of CLUE's
    sweep = json.loads((export / "outputs/own-sweep/sweep.json").read_text())
    assert len(sweep["points"]) == 6
    assert (export / "outputs/own/stock/model.safetensors").exists()


def test_the_chinese_page_has_the_same_blocks():
    for language in ("csv", "bash"):
        assert blocks(DOCS[0], language) == blocks(DOCS[1], language)
    without_comments = [re.sub(r" +#.*", "", blocks(name, "yaml")[0]) for name in DOCS]
    assert without_comments[0] == without_comments[1]


def test_a_gbk_export_is_refused_with_the_command_that_converts_it(export, monkeypatch, capsys):
    (export / "questions.csv").write_bytes((export / "questions.csv").read_text(encoding="utf-8-sig").encode("gbk"))
    with pytest.raises(SystemExit) as ended:
        run_module("recipe.commands.check_data", ["own.yaml"], monkeypatch)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    command = "iconv -f GB18030 -t UTF-8 questions.csv > utf8-questions.csv"
    assert f": {command} makes UTF-8 of it" in err
    assert all(command in (ROOT / "docs" / name).read_text() for name in DOCS)
