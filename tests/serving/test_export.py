import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from recipe.command_line.parsing import parse
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import RunError, UserError
from recipe.rows import sentences
from recipe.serving import export as export_module
from recipe.serving.export import export
from recipe.serving.onnx_form import INPUTS
from recipe.system.folder_lock import locked
from tests.utils import make_pairs, make_scored, write_jsonl


def words(run, *more):
    return parse(["--do_eval", f"--model_name_or_path={run}", "--use_cpu", *more])


@pytest.fixture
def run(arguments, tmp_path):
    """A run's folder."""
    train(arguments("--prefix_cache=off"))
    return tmp_path / "run"


def read_pairs(pairs_dir):
    return [json.loads(line) for line in (pairs_dir / "dev.json").read_text().splitlines()]


def answers_of(run):
    """What --do_predict answers to the validation split."""
    predict(parse(["--do_predict", f"--model_name_or_path={run}", "--use_cpu", "--eval_split=validation"]))
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]


def serve(run, *flags, **options):
    """The script of the run's onnx/, called."""
    return subprocess.run([sys.executable, str(run / "onnx" / "serve.py"), *flags], capture_output=True, **options)


def test_each_form_answers_as_the_model_does(run, pairs_dir, capsys):
    found = export(words(run))
    assert found.differences["stock"] < 1e-6
    assert found.differences["model.onnx"] < 1e-5
    assert found.differences["model_int8.onnx"] < 0.1
    out = capsys.readouterr().out
    assert "checked         logits of 30 pairs of" in out
    assert "no difference is shown" in out
    assert {path.name for path in (run / "onnx").iterdir()} >= {"model.onnx", "model_int8.onnx", "tokenizer.json"}
    assert {path.name for path in (run / "stock").iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert json.loads((run / "onnx" / "config.json").read_text())["id2label"] == {"0": "different", "1": "same"}
    import onnxruntime

    for name in ("model.onnx", "model_int8.onnx"):
        session = onnxruntime.InferenceSession(str(run / "onnx" / name))
        for batch, length in ((1, 3), (5, 40)):
            inputs = {each: np.ones((batch, length), dtype=np.int64) for each in INPUTS}
            assert session.run(None, inputs)[0].shape == (batch, 2)


def test_stock_libraries_load_the_stock_form_without_remote_code(run, pairs_dir):
    export(words(run))
    rows, expected = read_pairs(pairs_dir), answers_of(run)
    pairs = [(row["sentence1"], row["sentence2"]) for row in rows]
    chances = CrossEncoder(str(run / "stock"), device="cpu").predict(pairs, apply_softmax=True)
    assert [each.max() for each in chances] == pytest.approx([row["probability"] for row in expected], abs=1e-5)
    names = AutoModelForSequenceClassification.from_pretrained(run / "stock").config.id2label
    assert [names[each.argmax()] for each in chances] == [row["prediction"] for row in expected]
    classify = pipeline("text-classification", str(run / "stock"), device="cpu")
    found = classify([{"text": one, "text_pair": other} for one, other in pairs])
    assert [each["label"] for each in found] == [row["prediction"] for row in expected]
    assert "auto_map" not in (run / "stock" / "config.json").read_text()
    half = AutoModelForSequenceClassification.from_pretrained(run / "stock", dtype=torch.float16)
    batch = AutoTokenizer.from_pretrained(run / "stock")(*map(list, zip(*pairs, strict=True)), padding=True)
    logits = half(**{key: torch.tensor(value) for key, value in batch.items()}).logits
    assert torch.softmax(logits.float(), -1).max(-1).values.tolist() == pytest.approx(
        [row["probability"] for row in expected], abs=1e-3
    )


def test_pairs_that_the_run_cuts_are_cut_in_every_form(arguments, pairs_dir, tmp_path):
    train(arguments("--prefix_cache=off", "--max_length=12", "--learning_rate=1e-2"))
    run = tmp_path / "run"
    export(words(run))
    rows, expected = read_pairs(pairs_dir), [row["probability"] for row in answers_of(run)]
    pairs = [{"text": row["sentence1"], "text_pair": row["sentence2"]} for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert sum(len(tokenizer(**pair)["input_ids"]) > 12 for pair in pairs) > 20
    classify = pipeline("text-classification", str(run / "stock"), device="cpu", truncation=True)
    assert [each["score"] for each in classify(pairs)] == pytest.approx(expected, abs=2e-6)
    asked = [tuple(pair.values()) for pair in pairs]
    chances = CrossEncoder(str(run / "stock"), device="cpu").predict(asked, apply_softmax=True)
    assert [each.max() for each in chances] == pytest.approx(expected, abs=2e-6)
    assert json.loads((run / "onnx" / "tokenizer_config.json").read_text())["model_max_length"] == 12


@pytest.mark.parametrize(("flags", "within"), [([], 2e-6), (["--int8"], 2e-2)])
def test_the_script_needs_neither_torch_nor_transformers(run, pairs_dir, tmp_path, flags, within):
    export(words(run))
    rows = read_pairs(pairs_dir)
    write_jsonl(tmp_path / "pairs.jsonl", [{**row, "note": "carried along"} for row in rows])
    guard = (
        "import runpy, sys; sys.modules.update(torch=None, transformers=None, recipe=None); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", guard, str(run / "onnx" / "serve.py"), *flags]
    with open(tmp_path / "pairs.jsonl") as pairs:
        done = subprocess.run(command, stdin=pairs, capture_output=True, text=True, check=True, cwd=tmp_path)
    found, expected = [json.loads(line) for line in done.stdout.splitlines()], answers_of(run)
    assert [row["sentence1"] for row in found] == [row["sentence1"] for row in rows]
    assert {row["note"] for row in found} == {"carried along"}
    if not flags:
        assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
    mine, theirs = ([row["probability"] for row in rows] for rows in (found, expected))
    assert mine == pytest.approx(theirs, abs=within)


def test_what_the_script_cannot_answer_is_one_line_with_its_place(run):
    export(words(run))
    pair = b'{"sentence1": "a", "sentence2": "b"}\n'
    expected = "JSON with text that can be seen as sentence1 and sentence2 is expected"
    for line, said in [
        (b"a,b", "'a,b'"),
        ('{"问题一": "a"}'.encode(), """'{"问题一": "a"}'"""),
        (b'{"sentence1": "a"}', """'{"sentence1": "a"}'"""),
        (b'{"sentence1": "a", "sentence2": " \\u3000\\u200b"}', None),
        (b'{"sentence1": "", "sentence2": ""}', None),
        (b'{"sentence1": "a", "sentence2": null}', """'{"sentence1": "a", "sentence2": null}'"""),
        (b'{"sentence1": "\\ud800", "sentence2": "b"}', None),
        (b'["a", "b"]', None),
        (b"\xff", None),
        (b'{"sentence1": "a", "sentence2": "b", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    ]:
        done = serve(run, input=pair + b"\n" + line)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
        assert re.fullmatch(f"serve.py: error: standard input:3: .*: {expected}\n", done.stderr.decode())
        assert said is None or f" {said}: " in done.stderr.decode()
    done = serve(run, "pairs.jsonl", input=pair)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(
        b"serve.py: error: pairs.jsonl: --int8 is the only flag; pairs come on standard input"
    )
    assert serve(run, input=b"").stdout == b""


def test_a_model_of_single_sentences_takes_no_second_one(arguments, tmp_path, capsys):
    for split, count in (("train", 40), ("dev", 20)):
        rows = [{"sentence1": row["sentence1"], "label": row["label"]} for row in make_pairs(count, count)]
        write_jsonl(tmp_path / f"{split}.json", rows)
    train(arguments("--prefix_cache=off", f"--data_dir={tmp_path}", "--text_column_names=sentence1"))
    run = tmp_path / "run"
    capsys.readouterr()
    export(words(run))
    told = re.findall(r"(?<!< )pairs", capsys.readouterr().out)  # but of the script's pairs.jsonl
    assert told == []
    done = serve(run, input=b'{"sentence1": "a", "note": 1}\n')
    assert (done.returncode, json.loads(done.stdout)["note"]) == (0, 1)
    for line in (b'{"sentence1": "a", "sentence2": "b"}', b'{"sentence1": " "}', b'{"sentence2": "b"}'):
        done = serve(run, input=line)
        assert (done.returncode, done.stdout) == (2, b"")
        told = f"standard input:1: {line.decode()!r}: JSON with text that can be seen as sentence1 alone is expected\n"
        assert done.stderr.decode() == f"serve.py: error: {told}"


def test_the_script_and_the_recipe_agree_on_what_can_be_seen():
    source = Path(export_module.__file__).with_name("serve.py").read_text()
    constants = dict(re.findall(r"^(UNSEEN|BLANK) = (.*?)(?:  #.*)?$", source, re.MULTILINE))
    assert {name: ast.literal_eval(text) for name, text in constants.items()} == {
        "UNSEEN": sentences.UNSEEN,
        "BLANK": sentences.BLANK,
    }


def test_the_script_ends_by_a_signal_or_a_closed_pipe_without_a_word(run):
    export(words(run))
    command = [sys.executable, str(run / "onnx" / "serve.py")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write(b'{"sentence1": "a", "sentence2": "b"}\n' * 3000)  # more answers than a pipe holds
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", -signal.SIGPIPE)
    code = "import runpy, signal, sys\nclass Given:\n    buffer = (signal.raise_signal(signal.SIGINT) for _ in 'a')\n"
    code += f"sys.stdin = Given\nrunpy.run_path({command[1]!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_the_scripts_streams_may_lack_a_character_be_full_or_closed(run, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # a full disk is met at the buffer's end, as it is elsewhere
    export(words(run))
    command, row = [sys.executable, str(run / "onnx" / "serve.py")], {"sentence1": "退款😀", "sentence2": "退款"}
    both = f"{json.dumps(row)}\n{json.dumps(row | {'sentence1': '退款'})}".encode()
    done = serve(run, input=both, check=True, env=os.environ | {"PYTHONIOENCODING": "gbk"})
    first, second = done.stdout.decode("gbk").splitlines()
    assert json.loads(first).items() > row.items()
    assert '"sentence1": "退款"' in second
    expected = "it is closed; serve.py < pairs.jsonl > answers.jsonl is expected"
    for place, told, status in (
        ("> /dev/full", "standard output: No space left on device", 1),
        (">&-", f"standard output: {expected}", 2),
        ("<&-", f"standard input: {expected}", 2),
    ):
        line = f"{shlex.join(command)} {place}"
        done = subprocess.run(line, shell=True, input=json.dumps(row).encode(), capture_output=True, check=False)
        assert (done.stderr.decode(), done.returncode) == (f"serve.py: error: {told}\n", status)


def test_a_form_that_answers_otherwise_is_not_written(run, monkeypatch):
    export(words(run))
    before = {name: (run / name).read_bytes() for name in ("onnx/model.onnx", "stock/model.safetensors")}
    for name in ("model.onnx", "stock"):
        monkeypatch.setattr(export_module, "TOLERANCES", {name: 0.0})
        with pytest.raises(RunError, match=f"{name}: a logit differs by"):
            export(words(run))
    assert {name: (run / name).read_bytes() for name in before} == before
    assert not list(run.rglob(".*"))


def test_another_runs_folder_is_left_alone(run):
    export(words(run))
    for name in ("onnx", "stock"):
        with locked(run / name), pytest.raises(UserError, match=rf"{name}: another run writes there"):
            export(words(run))
    with locked(run, name=".predictions.lock"), pytest.raises(UserError, match=r"run: another run writes there"):
        predict(parse(["--do_predict", f"--model_name_or_path={run}", "--use_cpu"]))


def test_pairs_without_labels_tell_how_many_are_answered_alike(run, capsys):
    run = run.rename(run.parent / "my run")
    export(words(run, "--max_eval_samples=20"))
    told = capsys.readouterr().out
    assert re.search(r"checked +logits of 20 pairs of \S+dev.json; no more, by --max_eval_samples 20: stock", told)
    export(words(run, "--eval_split=test"))
    told = capsys.readouterr().out
    assert "of the pairs are answered alike; they have no labels" in told
    assert f"without torch   python '{run / 'onnx' / 'serve.py'}' < pairs.jsonl" in told  # which can be pasted


def test_scores_are_the_same_from_every_form(arguments, tmp_path, capsys):
    for split, count in (("train", 60), ("dev", 40)):
        write_jsonl(tmp_path / f"{split}.json", make_scored(count, count))
    data = ["--task_type=regression", f"--data_dir={tmp_path}", "--num_train_epochs=6", "--learning_rate=3e-3"]
    train(arguments("--prefix_cache=off", *data))
    run = tmp_path / "run"
    found, told = export(words(run)), capsys.readouterr().out
    assert found.differences["stock"] < 1e-5
    assert re.search(
        r"8 bits          Pearson 0.\d+, float32 0.\d+; scores differ by 0.\d+ on average over 40 pairs\n", told
    )
    assert json.loads((run / "onnx" / "config.json").read_text())["problem_type"] == "regression"  # so no sigmoid
    expected = answers_of(run)
    scores, pairs = [row["prediction"] for row in expected], [(row["sentence1"], row["sentence2"]) for row in expected]
    assert max(scores) > 1  # which a sigmoid would not let stand
    assert CrossEncoder(str(run / "stock"), device="cpu").predict(pairs).tolist() == pytest.approx(scores, abs=1e-4)
    score = pipeline("text-classification", str(run / "stock"), device="cpu")
    answers = score([{"text": one, "text_pair": other} for one, other in pairs])
    assert [each["score"] for each in answers] == pytest.approx(scores, abs=1e-4)
    command = [sys.executable, str(run / "onnx" / "serve.py")]
    given = "".join(json.dumps(dict(zip(("sentence1", "sentence2"), pair, strict=True))) + "\n" for pair in pairs)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, cwd=tmp_path)
    served = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["prediction"] for row in served] == pytest.approx(scores, abs=1e-4)
    assert "probability" not in served[0]


def test_8_bit_weights_overflow_on_no_processor(run):
    """Without VNNI two products of 8 and 8 bits are added in 16, which 8-bit weights overflow (AVX2)."""
    import onnx
    from onnx.numpy_helper import to_array

    export(words(run))
    tensors = onnx.load(run / "onnx" / "model_int8.onnx").graph.initializer
    weights = [to_array(each) for each in tensors if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 2]
    assert len(weights) > 20
    assert max(int(np.abs(each.astype(int)).max()) for each in weights) == 64
