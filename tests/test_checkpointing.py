import json
import pickle
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers.trainer_utils import get_last_checkpoint

from recipe.checkpointing import (
    MANIFEST,
    Damaged,
    checkpoint_folders,
    clean,
    newest_good,
    open_checkpoint,
    rotate,
    seal,
)
from recipe.errors import RunError, UserError
from recipe.training import train
from tests.kill_points import outcome

STEPS = ("--num_train_epochs=2", "--save_strategy=steps", "--save_steps=4", "--eval_strategy=steps", "--eval_steps=4")
FILES = ("trainable.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", MANIFEST)


def make_checkpoint(folder, step, **content):
    folder = folder / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"weights")
    (folder / "sub" / "b").write_bytes(b"")
    (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": None, **content}))
    seal(folder, {"step": step, "trainable": [], "identity": {}})
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with all of its checkpoints (4, 8, 12, 16, 18), made once: (folder, the words that made it)."""
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def run(arguments, finished, tmp_path):
    """A copy of a run whose final model is not written yet: (folder, a function that runs the same command)."""
    words = [*STEPS, "--save_total_limit=9"]
    cache = f"--prefix_cache_dir={finished.parent / 'cache'}"
    if not finished.exists():
        train(arguments(*words, cache, f"--output_dir={finished}"))
    folder = tmp_path / "copy" / "run"
    shutil.copytree(finished, folder)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    return folder, lambda *more: train(arguments(*words, cache, f"--output_dir={folder}", *more))


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
        return
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "zeroed":
        content[:] = bytes(len(content))
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_folder_is_a_checkpoint_once_its_manifest_is_there(tmp_path):
    folder = make_checkpoint(tmp_path, 3)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.step == 3
    assert checkpoint.manifest["files"].keys() == {"a", "sub/b", "trainer_state.json"}
    (folder / MANIFEST).unlink()
    with pytest.raises(Damaged, match=r"manifest.json: not there, so the checkpoint was never finished"):
        open_checkpoint(folder)


@pytest.mark.parametrize("how", ["truncated", "zeroed", "flipped", "removed"])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_and_the_run_goes_on_from_the_newest_good_one(run, finished, capsys, name, how):
    folder, again = run
    damage(folder / "checkpoint-18" / name, how)
    again()
    out = capsys.readouterr().out
    assert f"note: checkpoint-18 is left out: {folder / 'checkpoint-18' / name}: " in out
    assert f"going on from step 16: {folder / 'checkpoint-16'}" in out
    assert outcome(folder.parent) == outcome(finished.parent)


def test_a_checkpoint_is_no_good_without_its_best_one(run, finished, capsys):
    folder, again = run
    state = json.loads((folder / "checkpoint-18" / "trainer_state.json").read_text())
    best = state["best_global_step"]
    damage(folder / f"checkpoint-{best}" / "trainable.safetensors", "flipped")
    again()
    assert f"checkpoint-{best}/trainable.safetensors: not what was written" in capsys.readouterr().out
    assert outcome(folder.parent) == outcome(finished.parent)


def test_damage_everywhere_starts_over(run, finished, capsys):
    folder, again = run
    for checkpoint in checkpoint_folders(folder):
        damage(checkpoint / "optimizer.pt", "zeroed")
    again()
    assert "going on" not in capsys.readouterr().out
    assert outcome(folder.parent) == outcome(finished.parent)


def test_a_checkpoint_holds_what_training_changes_and_looks_like_no_model(run):
    folder, _ = run
    weights = load_file(folder / "checkpoint-18" / "trainable.safetensors")
    assert all(name.startswith(("classifier.", "bert.encoder.layer.2.", "bert.encoder.layer.3.")) for name in weights)
    assert {path.name for path in (folder / "checkpoint-18").iterdir()} == set(FILES)
    assert get_last_checkpoint(folder) == str(folder / "checkpoint-18")  # the Trainer's own tools know it


@pytest.mark.parametrize(("limit", "kept"), [(1, {8, 16}), (2, {8, 16}), (3, {8, 12, 16}), (None, {4, 8, 12, 16})])
def test_rotation_keeps_the_newest_and_the_best(tmp_path, limit, kept):
    for step in (4, 8, 12, 16):
        make_checkpoint(tmp_path, step)
    rotate(tmp_path, limit, best=8)
    assert {int(path.name.split("-")[1]) for path in checkpoint_folders(tmp_path)} == kept


def test_what_a_kill_left_behind_is_removed_and_does_not_count(tmp_path):
    for step in (4, 8, 12):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-4" / MANIFEST).unlink()  # killed while it was rotated away
    (tmp_path / "checkpoint-12" / "a").write_bytes(b"torn")
    (tmp_path / ".run.json.partial").touch()
    (tmp_path / ".staging").mkdir()
    good, complaints = newest_good(tmp_path, sys.maxsize)
    assert good.step == 8
    assert complaints == [f"checkpoint-12 is left out: {tmp_path}/checkpoint-12/a: 4 bytes, where 7 were written"]
    clean(tmp_path, good.step)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "sub/../../outside"])
def test_a_manifest_names_no_file_outside_its_folder(tmp_path, name):
    (tmp_path / "outside").write_bytes(b"weights")
    folder = make_checkpoint(tmp_path, 3)
    manifest = json.loads((folder / MANIFEST).read_text())
    content = {"step": 3, "trainable": [], "identity": {}, "files": {name: manifest["files"]["a"]}}
    shutil.rmtree(folder)
    folder.mkdir()
    from recipe.checkpointing import _digest

    (folder / MANIFEST).write_text(json.dumps({**content, "sha256": _digest(content)}))
    with pytest.raises(Damaged, match="outside its folder"):
        open_checkpoint(folder)


class Payload:
    """What a pickle of it runs when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_no_pickle_of_a_checkpoint_is_run(run, tmp_path, name):
    folder, again = run
    target = folder / "checkpoint-18"
    torch.save({"state": Payload(tmp_path / "pwned")}, target / name)
    manifest = json.loads((target / MANIFEST).read_text())
    seal(target, {key: manifest[key] for key in ("step", "trainable", "identity", "prefix", "base_model")})
    with pytest.raises((pickle.UnpicklingError, RunError, UserError)):
        again(f"--resume={target}", "--num_train_epochs=3")
    assert not (tmp_path / "pwned").exists()


def test_a_full_disk_leaves_the_older_checkpoints_good(arguments, tmp_path, monkeypatch):
    real, calls = torch.save, []

    def full(content, path, *more):
        calls.append(path)
        if len(calls) > 4:
            raise OSError(28, "No space left on device", str(path))
        real(content, path, *more)

    monkeypatch.setattr(torch, "save", full)
    folder = tmp_path / "run"
    with pytest.raises(RunError, match=r"checkpoint-8: cannot be written: .*No space left.*older checkpoints are as"):
        train(arguments(*STEPS))
    monkeypatch.undo()
    assert [path.name for path in checkpoint_folders(folder)] == ["checkpoint-4"]
    open_checkpoint(folder / "checkpoint-4")
    train(arguments(*STEPS))
    train(arguments(*STEPS, f"--output_dir={tmp_path / 'other' / 'run'}"))
    assert outcome(tmp_path) == outcome(tmp_path / "other")
