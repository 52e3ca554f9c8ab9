import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import get_last_checkpoint

from recipe.checkpoints.manifest import MANIFEST, begin, open_checkpoint, remove_checkpoint, seal
from recipe.checkpoints.restoring import open_resumable
from recipe.checkpoints.rotation import checkpoint_folders, clean, newest_good, rotate, strangers
from recipe.commands.train import train
from recipe.errors import Damaged, RunError, UserError
from recipe.model.modeling import BertForPairwiseCLS
from recipe.model.weights import load_trainable
from tests.utils import Payload, outcome

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


def test_what_a_kill_left_behind_is_removed_and_does_not_count(tmp_path, monkeypatch):
    for step in (4, 8, 12):
        make_checkpoint(tmp_path, step)
    with monkeypatch.context() as killed:
        killed.setattr("recipe.checkpoints.manifest._remove", lambda *_: None)
        remove_checkpoint(tmp_path / "checkpoint-4")  # killed while it was rotated away
    (tmp_path / "checkpoint-12" / "a").write_bytes(b"torn")
    (tmp_path / "checkpoint-12" / f".manifest.json.{'a1' * 16}.partial").touch()
    (tmp_path / f".run.json.{'a1' * 16}.partial").touch()
    (tmp_path / f".staging.{'a1' * 16}.partial").mkdir()
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
    from recipe.checkpoints.manifest import _digest

    (folder / MANIFEST).write_text(json.dumps({**content, "sha256": _digest(content)}))
    with pytest.raises(Damaged, match="outside its folder"):
        open_checkpoint(folder)


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


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_we_made_is_ever_removed(tmp_path):
    theirs = tmp_path / "theirs"
    make_checkpoint(theirs, 7)
    shutil.copytree(theirs / "checkpoint-7", tmp_path / "out" / "checkpoint-5-backup")
    out = tmp_path / "out"
    (out / "checkpoint-6-backup.tgz").write_text("mine")
    (out / "checkpoint-3").mkdir()
    (out / "checkpoint-3" / "notes.json").write_text("{}")
    (out / "checkpoint-٤").mkdir()
    (out / ".x.partial").mkdir()
    (out / ".x.partial" / "file").write_text("mine")
    (out / ".run.json.partial").write_text("mine")
    (out / ".staging").symlink_to(theirs)
    (out / "checkpoint-7").symlink_to(theirs / "checkpoint-7")
    before = snapshot(tmp_path)
    for step in (4, 8, 12):
        make_checkpoint(out, step)
    (out / "checkpoint-4" / "notes.txt").write_text("mine")
    (out / "checkpoint-8" / "sub" / "notes.txt").write_text("mine")
    (out / "checkpoint-12" / "elsewhere").symlink_to(theirs)
    before |= {Path("out/checkpoint-4/notes.txt"): b"mine", Path("out/checkpoint-8/sub/notes.txt"): b"mine"}
    assert not strangers(out)
    rotate(out, 1, None)
    assert [path.name for path in checkpoint_folders(out)] == ["checkpoint-12"]
    clean(out, -1)
    assert not checkpoint_folders(out)
    assert snapshot(tmp_path) == before
    assert (out / "checkpoint-7").is_symlink()
    assert (out / "checkpoint-12" / "elsewhere").is_symlink()


def test_what_lies_in_a_checkpoints_place_stays_and_is_not_sealed(tmp_path):
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "notes.json").write_text("mine")
    begin(folder)
    with pytest.raises(Damaged, match="says that the checkpoint was never finished"):
        open_checkpoint(folder)
    (folder / "trainable.safetensors").write_text("ours")
    seal(folder, {"step": 3, "trainable": [], "identity": {}})
    assert open_checkpoint(folder).manifest["files"].keys() == {"trainable.safetensors"}
    clean(tmp_path, 2)
    assert snapshot(tmp_path) == {Path("checkpoint-3/notes.json"): b"mine"}
    (tmp_path / "checkpoint-4").symlink_to(folder)
    with pytest.raises(OSError, match="checkpoint-4 is a link, which is not followed"):
        begin(tmp_path / "checkpoint-4")


def test_a_linked_checkpoint_is_not_followed_and_in_the_way_only_where_one_is_saved(arguments, tmp_path):
    theirs = make_checkpoint(tmp_path / "theirs", 9)
    before = snapshot(theirs)
    (tmp_path / "run").mkdir()
    words = ["--num_train_epochs=2", "--prefix_cache=off", "--save_total_limit=1"]
    (tmp_path / "run" / "checkpoint-9").symlink_to(theirs)
    for resume in ("auto", "never"):
        with pytest.raises(
            UserError, match=r"checkpoint-9: a link, which is not followed, where a checkpoint is to be"
        ):
            train(arguments(*words, f"--resume={resume}"))
    (tmp_path / "run" / "checkpoint-9").rename(tmp_path / "run" / "checkpoint-10")
    train(arguments(*words, "--resume=never"))
    assert (tmp_path / "run" / "checkpoint-10").is_symlink()
    assert snapshot(theirs) == before


def test_the_trainers_end_removes_our_checkpoints_alone(arguments, tmp_path):
    backup = tmp_path / "run" / "checkpoint-5-backup"
    backup.mkdir(parents=True)
    (backup / "optimizer.pt").write_text("mine")
    (tmp_path / "run" / "checkpoint-5-backup.tgz").write_text("mine")
    train(arguments("--save_total_limit=1", "--num_train_epochs=2", "--prefix_cache=off"))
    assert len(checkpoint_folders(tmp_path / "run")) == 1
    assert (backup / "optimizer.pt").read_text() == (tmp_path / "run" / "checkpoint-5-backup.tgz").read_text() == "mine"


def reseal(folder, change):
    """A checkpoint with something else in it, sealed as if it had been saved so."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(folder, manifest)
    seal(folder, {key: value for key, value in manifest.items() if key not in ("files", "sha256")})


def saved(name, content):
    return lambda folder, _: torch.save(content, folder / name)


def without(name):
    return lambda folder, _: (folder / name).unlink()


def with_state(**values):
    def change(folder, _):
        content = json.loads((folder / "trainer_state.json").read_text())
        (folder / "trainer_state.json").write_text(json.dumps({**content, **values}))

    return change


def with_identity(**values):
    return lambda _, manifest: manifest["identity"].update(values)


def with_moments(change):
    """The optimizer's state of its first parameter changed."""

    def spoil(folder, _):
        content = torch.load(folder / "optimizer.pt")
        change(content["state"], content["param_groups"][0])
        torch.save(content, folder / "optimizer.pt")

    return spoil


def with_weights(change):
    def spoil(folder, _):
        weights = load_file(folder / "trainable.safetensors")
        save_file({name: change(value) for name, value in weights.items()}, folder / "trainable.safetensors")

    return spoil


SPOILT_MOMENTS = [
    lambda state, _: state.clear(),
    lambda state, _: state.pop(0),
    lambda state, _: state.update({0: None}),
    lambda state, _: state[0].pop("step"),
    lambda state, _: state[0].update(exp_avg="a"),
    lambda state, _: state[0].update(exp_avg=torch.zeros(3)),  # whose end torch would read past
    lambda state, _: state[0]["exp_avg_sq"].fill_(float("nan")),
    lambda _, group: group.pop("betas"),
    lambda _, group: group.update(lr="a"),
]
SPOILT = [
    *(("optimizer.pt", with_moments(change)) for change in SPOILT_MOMENTS),
    ("trainable.safetensors", with_weights(lambda value: value * float("nan"))),
    ("scheduler.pt", saved("scheduler.pt", {"last_epoch": 18, "base_lrs": [], "_last_lr": [0.1]})),
    ("scheduler.pt", saved("scheduler.pt", {"last_epoch": 19})),
    ("trainer_state.json", with_state(stateful_callbacks={"TrainerControl": None})),
    ("trainer_state.json", with_state(train_batch_size="8", total_flos=None)),
    *((name, without(name)) for name in FILES[:5]),
    *((name, lambda folder, _, name=name: (folder / name).write_bytes(b"PK\x03\x04")) for name in FILES[:4]),
    *((name, saved(name, content)) for name in FILES[1:4] for content in ([], {}, {"state": 0, "param_groups": 0})),
    ("optimizer.pt", saved("optimizer.pt", {"state": {}, "param_groups": [{"params": [0]}]})),
    ("rng_state.pth", saved("rng_state.pth", {"python": (3, (), None), "numpy": (), "cpu": torch.zeros(3)})),
    ("trainer_state.json", with_state(global_step=17)),
    ("trainer_state.json", with_state(log_history=[{"eval_accuracy": "good"}])),
    ("trainer_state.json", with_state(best_global_step="9")),
    ("trainer_state.json", with_state(another=1)),
    (MANIFEST, with_identity(arguments=[])),
    (MANIFEST, with_identity(weights={"trained": 1, "frozen": "2"})),
    (MANIFEST, lambda _, manifest: manifest.update(prefix=None)),
    (MANIFEST, lambda _, manifest: manifest.update(step=17)),
]


@pytest.mark.parametrize(("name", "change"), SPOILT)
def test_what_cannot_be_gone_on_from_is_damaged_and_the_newest_good_one_is_taken(run, name, change):
    folder, _ = run
    reseal(folder / "checkpoint-18", change)
    good, complaints = newest_good(folder, sys.maxsize, open_resumable)
    assert good.step == 16
    (line,) = complaints
    assert line.startswith(f"checkpoint-18 is left out: {folder / 'checkpoint-18' / name}: ")
    assert "\n" not in line


@pytest.mark.parametrize("change", [lambda value: value.flatten()[:1], lambda value: value.int()])
def test_weights_of_another_shape_or_type_are_named(run, finished, change):
    target, model = run[0] / "checkpoint-18", BertForPairwiseCLS.from_pretrained(finished)
    reseal(target, with_weights(change))
    trained = open_checkpoint(target).manifest["trainable"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    with pytest.raises(Damaged, match=r"checkpoint-18/trainable.safetensors: bert\.\S+ is of another shape"):
        load_trainable(model, target)


def test_a_schedule_that_does_not_fit_names_the_checkpoint_and_the_way_out(run):
    folder, again = run
    reseal(folder / "checkpoint-18", saved("scheduler.pt", {"last_epoch": 18}))
    with pytest.raises(RunError, match=r"checkpoint-18: cannot be gone on from \(KeyError: 'lr_lambdas'\); without it"):
        again("--num_train_epochs=3")


def test_a_run_goes_on_past_a_checkpoint_whose_optimizer_torch_refuses(run, finished, capsys, tmp_path):
    folder, again = run
    reseal(folder / "checkpoint-18", saved("optimizer.pt", {"state": Payload(tmp_path / "pwned")}))
    again()
    out = capsys.readouterr().out
    assert (
        f"note: checkpoint-18 is left out: {folder / 'checkpoint-18' / 'optimizer.pt'}: cannot be loaded: it hol" in out
    )
    assert "going on from step 16" in out
    assert outcome(folder.parent) == outcome(finished.parent)
    assert not (tmp_path / "pwned").exists()
