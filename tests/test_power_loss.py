"""Whatever a file system may lose when the power goes: what a run had finished is there, what it had not is absent."""

import json
import os
import random
import shutil
import sys

import numpy as np
import pytest
import torch

from recipe.cache.appending import append
from recipe.cache.finding import find_or_encode
from recipe.cache.store import intact, open_store
from recipe.checkpoints.restoring import open_resumable
from recipe.checkpoints.resuming import _finished_report
from recipe.checkpoints.rotation import newest_good
from recipe.commands.train import train
from recipe.errors import Missing
from recipe.reporting.outputs import missing_files
from recipe.studies import points
from recipe.system.files import publish, staging_folder, whole_folder, write_json
from recipe.system.folder_lock import locked
from recipe.system.json_files import read_json
from recipe.training.trainer import FreezeTrainer
from tests.power_loss import crash, recording


@pytest.fixture
def crashes(tmp_path):
    """A function: each moment's crashes, laid out one after the other: (what was finished, the folder)."""

    def lay_out(recorder, each=2):
        rng, place = random.Random(0), tmp_path / "crashed"
        for moment in recorder.moments:
            for _ in range(each):
                shutil.rmtree(place, ignore_errors=True)
                crash(moment, place, rng)
                yield moment.mark, place

    return lay_out


def test_the_method_finds_what_is_not_synced(tmp_path, monkeypatch, crashes):
    """A file that is renamed and not fsynced, as it is often done, is found torn or lost; with both fsyncs, never."""
    for careful in (False, True):
        folder = tmp_path / str(careful)
        folder.mkdir()
        with recording(folder, monkeypatch) as recorder:
            if careful:
                write_json(folder / "a.json", {"a": 1})
            else:
                (folder / "partial").write_text('{"a": 1}')
                os.replace(folder / "partial", folder / "a.json")
            recorder.mark = "written"
        found = {
            (place / "a.json").read_text() if (place / "a.json").exists() else None
            for mark, place in crashes(recorder, 40)
            if mark == "written"
        }
        assert (found == {'{\n  "a": 1\n}\n'}) == careful
        assert careful or found >= {None, "", '{"a": 1}'}


def test_saves_and_final_files(arguments, tmp_path, monkeypatch, crashes):
    """A save that has come back is there at every later crash, and a finished run is whole."""
    real = FreezeTrainer._save_checkpoint
    out = tmp_path / "disk" / "deep" / "run"
    (tmp_path / "disk").mkdir()

    def save(self, *args):
        real(self, *args)
        recorder.mark = self.state.global_step

    monkeypatch.setattr(FreezeTrainer, "_save_checkpoint", save)
    words = ["--prefix_cache=off", "--save_strategy=steps", "--save_steps=3", "--save_total_limit=2"]
    with recording(tmp_path / "disk", monkeypatch) as recorder:
        train(arguments(*words, f"--output_dir={out}", "--eval_strategy=steps", "--eval_steps=3"))
        recorder.mark = "finished"
    report = json.loads((out / "run.json").read_text())
    seen = set()
    for mark, disk in crashes(recorder):
        place = disk / "deep" / "run"
        told = _finished_report(place)
        whole = told is not None and not missing_files(place, report["files"])
        good, _ = newest_good(place, sys.maxsize, open_resumable)
        assert whole or mark != "finished"
        assert told is None or told["model_sha256"] == report["model_sha256"]
        assert mark is None or whole or good.step >= (9 if mark == "finished" else mark)
        seen.add((mark, whole))
    assert seen >= {(None, False), (3, False), (6, False), (9, False), ("finished", True)}


def test_a_cache(arguments, tmp_path, monkeypatch, crashes):
    """Whatever is found after a crash is what was written; what was committed before it is there."""
    jobs, real = [], append

    def remember(each, args):
        jobs[:] = each
        return find_or_encode(each, args)

    def appended(store, hashes, *more):
        real(store, hashes, *more)
        recorder.mark = (recorder.mark or 0) + len(hashes)

    monkeypatch.setattr("recipe.cache.policy.find_or_encode", remember)
    monkeypatch.setattr("recipe.cache.appending.append", appended)
    monkeypatch.setattr("recipe.cache.appending.COMMIT_BYTES", 1 << 14)
    (tmp_path / "cache").mkdir()
    with recording(tmp_path / "cache", monkeypatch) as recorder:
        train(arguments("--prefix_cache=on"))
    hashes, key = np.concatenate([job.hashes for job in jobs]), jobs[0].key
    rows = torch.cat([job.rows for job in jobs])

    def states(store, starts):
        return [store.states[start : start + count] for start, count in zip(starts, rows, strict=True)]

    whole = open_store(tmp_path / "cache", key)
    expected, seen = states(whole, whole.find(hashes)), set()
    for mark, place in crashes(recorder):
        store = open_store(place, key)
        found = torch.full((len(hashes),), -1) if store is None else intact(store).find(hashes)
        there = [index for index, start in enumerate(found.tolist()) if start >= 0]
        assert len(there) >= (mark or 0)
        if there:
            rest = states(store, found)
            assert all(rest[index].equal(expected[index]) for index in there)
        seen.add(len(there))
    assert len(seen) > 3
    assert max(seen) == len(hashes)


def test_a_sweeps_record_a_merge_and_an_export(tmp_path, monkeypatch, crashes):
    folder = tmp_path / "folder"
    folder.mkdir()
    record = {"majority": None, "points": []}
    point = {"key": "0", "setting": {}, "accuracy": 1.0, "loss": 1.0, "roc_auc": None, "evaluations": []}
    point |= {**dict.fromkeys(points.COUNTS, 1), **dict.fromkeys(points.SECONDS, 1.0)}
    with recording(folder, monkeypatch) as recorder:
        for number in range(3):
            record["points"].append({**point, "seed": number})
            write_json(folder / points.RESULTS, record)
            recorder.mark = (number + 1, False, False)
        with whole_folder(folder / "model") as staging:
            for name in ("config.json", "model.safetensors"):
                (staging / name).write_text(name)
        recorder.mark = (3, True, False)
        with locked(folder / "deep" / "onnx"), staging_folder(folder / "deep" / "onnx") as staging:
            for name in ("config.json", "model.onnx"):
                (staging / name).write_text(name)
            publish(staging, folder / "deep" / "onnx", last=("model.onnx",))
        recorder.mark = (3, True, True)
    for mark, place in crashes(recorder):
        trained, merged, exported = mark or (0, False, False)
        try:
            assert len(read_json(place / points.RESULTS, points.RECORD)["points"]) >= trained
        except Missing:
            assert trained == 0
        model = {path.name: path.read_text() for path in (place / "model").glob("*")}
        assert model == {name: name for name in ("config.json", "model.safetensors")} or not (model or merged)
        onnx = {path.name: path.read_text() for path in (place / "deep" / "onnx").glob("[!.]*")}
        assert all(name == content for name, content in onnx.items())
        assert not exported or onnx.keys() == {"config.json", "model.onnx"}
