"""Answers to many rows: written as they come, in memory that does not grow, and gone on from after a kill."""

import errno
import gc
import io
import json
import os
import signal
import sys
import weakref

import pytest

from recipe.command_line.parsing import parse
from recipe.commands import answering
from recipe.commands import predict as predicting
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import RunError, Stopped, UserError
from tests.kill_points import run_child
from tests.utils import make_pairs, write_jsonl


@pytest.fixture
def model(arguments, tmp_path, monkeypatch):
    """A run's folder; its answers are appended 8 rows at a time."""
    monkeypatch.setattr(answering, "BATCHES_AT_ONCE", 2)
    train(arguments("--prefix_cache=off"))
    return tmp_path / "run"


def words(model, *more):
    return parse(
        [f"--model_name_or_path={model}", "--use_cpu", "--do_predict", "--per_device_eval_batch_size=4", *more]
    )


def written(model):
    """The names and bytes of what predictions leave in the run's folder."""
    return {path.name: path.read_bytes() for path in model.iterdir() if "predict" in path.name}


def forget(model):
    for name in written(model):
        (model / name).unlink()


def partial_of(model):
    (path,) = model.glob("*.partial.jsonl")
    return path


def stop_behind(monkeypatch, lots, what):
    """Have `what` happen when so many lots have been appended and the next is to be."""
    real, done = predicting.append, []

    def append(path, lines):
        if len(done) == lots:
            what(path, lines)
        done.append(real(path, lines))

    monkeypatch.setattr(predicting, "append", append)


def test_a_kill_at_any_file_operation_is_gone_on_from_to_the_same_bytes(model):
    work = lambda: predict(words(model))  # noqa: E731
    status, operations = run_child(work, model, 0)
    assert status == 0
    expected = written(model)
    assert expected.keys() == {"predictions.jsonl", "afqmc_predict.json"}
    assert operations > 8
    gone_on = 0
    for at in range(1, operations + 1):
        forget(model)
        assert os.WTERMSIG(run_child(work, model, at)[0]) == signal.SIGKILL
        left = written(model).get("predictions.jsonl")
        assert left in (None, expected["predictions.jsonl"])  # there when it is whole
        gone_on += any("partial" in name for name in written(model))
        work()
        assert written(model) == expected, at
    assert gone_on >= 3


@pytest.mark.parametrize("lost", [b"", b"\0" * 90, b"[1]\n", b"{}\n" * 9, b'"prediction"\n' * 9, b"[" * 9999 + b"\n"])
def test_what_was_not_appended_whole_is_answered_again(model, monkeypatch, lost):
    predict(words(model))
    expected = written(model)
    forget(model)
    stop_behind(monkeypatch, 2, lambda path, _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match=r"^stopped after 16 of 20 pairs; the same command goes on from there$"):
        predict(words(model))
    monkeypatch.undo()
    monkeypatch.setattr(answering, "BATCHES_AT_ONCE", 2)
    partial, whole = partial_of(model), partial_of(model).read_bytes()
    assert whole == b"".join(expected["predictions.jsonl"].splitlines(keepends=True)[:16])
    first = sum(map(len, whole.splitlines(keepends=True)[:8]))
    place = first if lost.endswith(b"\n") else first + 30  # in the second lot
    partial.write_bytes(whole[:place] + lost + (whole[place + len(lost) :] if b"\0" in lost else b""))
    answered = []
    monkeypatch.setattr(
        predicting,
        "append",
        lambda path, lines, real=predicting.append: answered.append(len(lines)) or real(path, lines),
    )
    predict(words(model))
    assert answered == [8, 4]
    assert written(model) == expected


@pytest.mark.parametrize("flag", ["--streaming", "--no_streaming"])
def test_nothing_is_computed_twice(model, monkeypatch, capsys, flag):
    stop_behind(monkeypatch, 2, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped):
        predict(words(model, flag))
    monkeypatch.undo()
    monkeypatch.setattr(answering, "BATCHES_AT_ONCE", 2)
    asked, real = [], answering.encode_batch
    monkeypatch.setattr(answering, "encode_batch", lambda batch, *more: asked.extend(batch["id"]) or real(batch, *more))
    capsys.readouterr()
    predict(words(model, flag))
    assert asked == ["16", "17", "18", "19"]
    assert "going on after 16 of 20 pairs" in capsys.readouterr().out


def test_other_answers_than_the_partial_ones_begin_at_the_first_row_and_leave_those(
    model, monkeypatch, pairs_dir, capsys
):
    predict(words(model))
    expected = written(model)["predictions.jsonl"]
    forget(model)
    with monkeypatch.context() as patch:
        stop_behind(patch, 2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            predict(words(model))
    partial = partial_of(model)
    rows = [json.loads(line) for line in (pairs_dir / "test.json").read_text().splitlines()]
    other = write_jsonl(model.parent / "other.json", [*rows[:3], *rows[4:]])
    for more in (
        [f"--test_file={other}"],
        ["--max_length=20"],
        ["--per_device_eval_batch_size=2"],
        ["--id_column_name=id"],
    ):
        capsys.readouterr()
        predict(words(model, *more))
        told = capsys.readouterr().out
        assert f"note: {partial} is there, of another model, other data or flags" in told
        assert "going on" not in told
        assert partial_of(model) == partial
    predict(words(model))
    assert written(model)["predictions.jsonl"] == expected


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(model, monkeypatch):
    predict(words(model))
    expected = written(model)
    forget(model)

    def full(path, lines):
        path.write_bytes(path.read_bytes() + lines[0].encode()[:30])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        stop_behind(patch, 1, full)
        with pytest.raises(RunError, match=r"partial.jsonl: No space left .* the same command goes on after 8 pairs$"):
            predict(words(model))
    predict(words(model))
    assert written(model) == expected


def test_a_link_in_the_partials_place_is_not_followed(model, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        stop_behind(patch, 1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            predict(words(model))
    partial = partial_of(model)
    partial.unlink()
    (tmp_path / "mine").write_text("mine")
    partial.symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"is there, which this command did not write"):
        predict(words(model))
    assert (tmp_path / "mine").read_text() == "mine"


def test_one_lot_is_held_at_a_time(model, monkeypatch):
    """What was answered is let go of, also by the libraries, before the next lot but one is read."""
    lots, alive, real = [], [], answering.answer_pairs

    def answer_pairs(trainer, pairs):
        gc.collect()
        alive.append(sum(lot() is not None for lot in lots))
        lots.append(weakref.ref(pairs))
        return real(trainer, pairs)

    monkeypatch.setattr(answering, "answer_pairs", answer_pairs)
    write_jsonl(model.parent / "many.json", make_pairs(60))
    predict(words(model, f"--test_file={model.parent / 'many.json'}"))
    assert len(alive) == 8
    assert max(alive) <= 1


def test_progress_counts_each_row_once(model, monkeypatch):
    made, real = [], predicting.Progress
    monkeypatch.setattr(predicting, "Progress", lambda *given: made.append(real(*given)) or made[-1])
    predict(words(model))
    assert (made[0].done, made[0].total, made[0].unit) == (20, 20, "pair")


def test_several_files_are_answered_in_their_order(model, tmp_path):
    for number, count in enumerate((5, 9)):
        rows = [{"id": f"{number}-{place}", **row} for place, row in enumerate(make_pairs(count, number))]
        write_jsonl(tmp_path / f"part-{number}.json", rows)
    predict(words(model, f"--test_file={tmp_path / 'part-*.json'}"))
    found = [json.loads(line)["id"] for line in (model / "predictions.jsonl").read_text().splitlines()]
    assert found == [*(f"0-{place}" for place in range(5)), *(f"1-{place}" for place in range(9))]


def test_standard_output_gets_each_lot_as_it_comes(model, monkeypatch):
    class Input:
        buffer = io.BytesIO("".join(json.dumps(row) + "\n" for row in make_pairs(20)).encode())

    written_out = []
    monkeypatch.setattr(sys, "stdin", Input)
    monkeypatch.setattr(predicting, "write_out", lambda lines: written_out.append(len(lines)))
    predict(words(model, "--test_file=-"))
    assert written_out == [8, 8, 4]
    assert written(model) == {}
