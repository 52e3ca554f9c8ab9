import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipe.checkpoints.manifest import MANIFEST, open_checkpoint, seal
from recipe.checkpoints.restoring import open_resumable
from recipe.checkpoints.rotation import checkpoint_folders, newest_good
from recipe.errors import Damaged, RunError, UserError
from recipe.model.modeling import BertForPairwiseCLS
from recipe.model.weights import load_trainable
from tests.checkpoints.contents import FILES
from tests.utils import Payload, outcome


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
