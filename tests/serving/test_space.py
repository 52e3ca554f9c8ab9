"""A Space as the Hub would run it: app.py in a process that knows neither the run's folder nor this checkout."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from importlib.metadata import version

import pytest
from huggingface_hub import SpaceCard

from recipe.command_line.parsing import parse
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.file_names import SCATTER
from recipe.serving import app
from recipe.serving.space import FILES, SHOWN, write_space
from tests.launching import free_port
from tests.utils import ROOT, make_pairs, write_jsonl

PAIR = {"sentence1": "花呗怎么提前还款", "sentence2": "花呗可以提前还吗"}
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@pytest.fixture
def run(arguments, tmp_path):
    """A finished run over data of its own, whose columns and labels have other names than usual."""
    pytest.importorskip("gradio")
    for name, count in (("train", 40), ("dev", 30)):
        rows = [
            {"q": row["sentence1"], "p": row["sentence2"], "y": "否是"[int(row["label"])]} for row in make_pairs(count)
        ]
        (tmp_path / "pairs").mkdir(exist_ok=True)
        write_jsonl(tmp_path / "pairs" / f"{name}.json", rows)
    columns = ["--text_column_names=q,p", "--label_column_name=y"]
    words = [f"--data_dir={tmp_path / 'pairs'}", "--prefix_cache=off", "--model_card=true", *columns, "--label_names"]
    train(arguments(*words, "否", "是"))
    return tmp_path / "run"


def words(run, *more):
    return parse(["--do_predict", f"--model_name_or_path={run}", "--use_cpu", *more])


@pytest.fixture
def space(run, tmp_path):
    """The run's Space; nothing is left but the folder, and what predict answers to PAIR."""
    write_jsonl(tmp_path / "pair.jsonl", [{"q": PAIR["sentence1"], "p": PAIR["sentence2"]}])
    predict(words(run, f"--test_file={tmp_path / 'pair.jsonl'}"))
    answer = json.loads((run / "predictions.jsonl").read_text())
    write_space(words(run), str(tmp_path / "space"), sentences=True)
    for name in ("run", "pairs"):
        (tmp_path / name).rename(tmp_path / f"{name}-gone")
    return tmp_path / "space", answer


@pytest.fixture
def page(space, tmp_path):
    """The Space's app.py running by itself, and the page's address."""
    folder, _ = space
    told = folder / "recipe" / "serving" / "app.py"
    told.write_text(told.read_text().replace("page            http", "own page http"))  # and not the checkout's
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")  # where nobody listens
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "app.py", "--use_cpu", f"--server_port={free_port()}"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while not (found := re.search(r"own page (http://127\.0\.0\.1:\d+)", (tmp_path / "log").read_text())):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield found[1]
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(20) == 130
    finally:
        process.kill()


def ask(url, texts):
    """What the page says of a pair, asked as its own script asks."""
    body = json.dumps({"data": texts, "fn_index": 0, "session_hash": "a"}).encode()
    OPEN(urllib.request.Request(f"{url}/gradio_api/queue/join", body, {"Content-Type": "application/json"})).close()
    with OPEN(f"{url}/gradio_api/queue/data?session_hash=a") as events:
        messages = [json.loads(line.removeprefix(b"data: ")) for line in events if line.startswith(b"data: ")]
    return next(each["output"]["data"] for each in messages if each["msg"] == "process_completed")


def test_a_space_answers_without_the_run_and_the_checkout(space, page):
    folder, answer = space
    said, *orders = ask(page, list(PAIR.values()))
    name, probability = re.match(r"\*\*(\S+) (\S+)\*\*", said).groups()
    assert (name, float(probability)) == (answer["prediction"], pytest.approx(answer["probability"], abs=1e-6))
    assert [each["label"] for each in orders] == re.findall("[否是]", said)
    shown = [json.loads(line) for line in (folder / SHOWN).read_text().splitlines()]
    with OPEN(f"{page}/config") as response:
        config = json.load(response)
    assert config["title"] == "run"
    parts = {part["type"]: part["props"] for part in config["components"]}
    samples = parts["dataset"]["samples"]
    assert len(samples) == 6
    assert all(sample in [[row["q"], row["p"]] for row in shown] for sample in samples)
    (table,) = [part["props"]["value"] for part in config["components"] if part["props"].get("elem_id") == "mistakes"]
    assert {(row["q"], row["p"], row["y"]) for row in shown} >= {tuple(row[:3]) for row in table["data"]} != set()
    (wrong,) = [part["props"]["value"] for part in config["components"] if part["props"].get("elem_id") == "wrong"]
    assert wrong.endswith(": 验证集的一部分 · a part of the validation split")  # of which no share is wrong
    assert "data:image/png" in parts["html"]["value"]


def test_a_space_is_whole_and_tells_of_no_machine_and_no_more_than_the_page_shows(space, tmp_path):
    folder, _ = space
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    ours = {name for name in found if not name.startswith("recipe/")}
    assert ours == {
        "README.md",
        "app.py",
        "requirements.txt",
        SHOWN,
        *(f"model/run/{name}" for name in (*FILES, "run.json") if name != SCATTER),
    }
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipe").rglob("*") if path.is_file()}
    assert found.keys() - ours == {name for name in code if "__pycache__" not in name}
    shown = (folder / SHOWN).read_text()
    rows = map(json.loads, (tmp_path / "pairs-gone" / "dev.json").read_text().splitlines())
    hidden = [row["q"] for row in rows if json.dumps(row, ensure_ascii=False) not in shown]
    assert hidden
    for path in found.values():
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content, path
        assert not any(sentence.encode() in content for sentence in hidden if len(sentence) > 6), path
    card = SpaceCard.load(folder / "README.md").data
    assert (card.sdk, card.sdk_version, card.app_file) == ("gradio", version("gradio"), "app.py")
    asked = (folder / "requirements.txt").read_text()
    assert asked.startswith("--extra-index-url https://download.pytorch.org/whl/cpu\n")  # torch without CUDA
    pins = dict(re.findall(r"^([\w.-]+)==(.+)$", asked, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["app"]]
    assert pins == {name: version(name).partition("+")[0] for name in (re.split("[<>=]", line)[0] for line in needed)}


def test_the_next_commands_can_be_pasted_where_the_folder_has_spaces(run, tmp_path, capsys):
    folder = tmp_path / "my space"
    write_space(words(run), str(folder), sentences=False)
    told = capsys.readouterr().out.splitlines()[-1].removeprefix("next").split("; ")
    commands = [shlex.split(command) for command in told]
    assert commands[0] == ["python", str(folder / "app.py")]
    assert commands[1] == ["hf", "upload", "OWNER/NAME", str(folder), ".", "--type", "space"]


def test_sentences_stay_here_where_that_is_asked_for(run, tmp_path):
    write_space(words(run), str(tmp_path / "space"), sentences=False)
    assert not (tmp_path / "space" / SHOWN).exists()
    sentences = [json.loads(line)["q"] for line in (tmp_path / "pairs" / "dev.json").read_text().splitlines()]
    for path in (path for path in (tmp_path / "space").rglob("*") if path.is_file()):
        assert not any(sentence.encode() in path.read_bytes() for sentence in sentences if len(sentence) > 6), path
    data = ["--data_dir", str(tmp_path / "space" / "model" / "run")]  # as app.py has it then
    with pytest.raises(UserError, match="no validation split in it"):
        app.ask_validation(app.load_asked(words(tmp_path / "space" / "model" / "run", *data)))


def test_what_cannot_be_a_space_is_refused_and_nothing_is_left(run, tiny_model, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    before = sorted(tmp_path.iterdir())
    for model, folder, told in [
        (run, tmp_path / "full", r"^--space .*/full: it is there, and not an empty folder; name another one$"),
        (run, tmp_path / "full" / "file", r"^--space .*/file: it is there, and not an empty folder"),
        (run, tmp_path / "full" / "file" / "x", r"^--space .*/file/x: Not a directory; a folder that can be written"),
        (run, tmp_path / ("x" * 300), r"^--space .*/x+: File name too long; a folder that can be written is expected$"),
        (tiny_model, tmp_path / "new", r"^--model_name_or_path .*: not a model that this recipe saved"),
        (tmp_path / "full", tmp_path / "new", r"^--model_name_or_path .*/full: "),
        ("model", tmp_path / "new", r"^--model_name_or_path model: the folder of a finished run is expected"),
    ]:
        with pytest.raises(UserError, match=told):
            write_space(words(model), str(folder), sentences=True)
    with pytest.raises(UserError, match="no such"):
        write_space(words(run, "--validation_file=none.json"), str(tmp_path / "new"), sentences=True)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr(sys, "argv", ["app.py", "--no_examples"])
    with pytest.raises(UserError, match=r"^--no_examples: it goes with --space FOLDER$"):
        app.main()
