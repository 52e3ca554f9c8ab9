import shutil
from types import SimpleNamespace

import pytest
import torch

from recipe.checkpoints import random_states
from recipe.checkpoints.random_states import are_random_states, keep_device_state, load, take_device_state
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.commands.train import train


@pytest.fixture
def device(monkeypatch):
    """A generator behind torch.xpu and torch.mps, from which the Trainer takes no state."""
    generator = torch.Generator().manual_seed(7)
    module = SimpleNamespace(get_rng_state=generator.get_state, set_rng_state=generator.set_state)
    for kind in ("xpu", "mps"):
        monkeypatch.setattr(torch, kind, module)
    return generator


def of_rank(rank, ranks, kind="xpu"):
    return SimpleNamespace(device=torch.device(kind), world_size=ranks, process_index=rank)


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (of_rank(0, 1), "rng_state.pth"),
        (of_rank(1, 2), "rng_state_1.pth"),
        (of_rank(0, 1, "mps"), "rng_state.pth"),
    ],
)
def test_a_device_draws_on_where_it_was(run, device, args, name):
    folder = run[0] / "checkpoint-18"
    (folder / "rng_state.pth").rename(folder / name)
    before = load(folder / name)
    keep_device_state(folder, args)
    assert load(folder / name).keys() == before.keys() | {args.device.type}
    assert are_random_states(folder / name)
    expected = torch.rand(5, generator=device)
    take_device_state(str(folder), args)
    assert torch.equal(torch.rand(5, generator=device), expected)


def test_what_the_trainer_keeps_itself_and_what_is_not_there_is_left_alone(run, device):
    folder = run[0] / "checkpoint-18"
    content, state = (folder / "rng_state.pth").read_bytes(), device.get_state()
    keep_device_state(folder, of_rank(0, 1, "cuda"))
    assert (folder / "rng_state.pth").read_bytes() == content
    for checkpoint in (None, str(folder), str(folder / "other")):
        take_device_state(checkpoint, of_rank(0, 1))
    assert torch.equal(device.get_state(), state)


def test_a_run_keeps_its_devices_state_and_takes_it_up_again(arguments, monkeypatch, tmp_path):
    kept, taken = torch.Generator().manual_seed(7).get_state(), []
    monkeypatch.setattr(random_states, "LEFT_OUT", ("cpu",))  # as if that were such a device
    monkeypatch.setattr(torch.cpu, "get_rng_state", lambda: kept, raising=False)
    monkeypatch.setattr(torch.cpu, "set_rng_state", taken.append, raising=False)
    words = ("--prefix_cache=off", "--max_steps=2", "--save_steps=1", "--eval_strategy=no")
    train(arguments(*words))
    assert taken == []
    newest, _ = checkpoint_folders(tmp_path / "run")
    assert torch.equal(load(newest / "rng_state.pth")["cpu"], kept)
    shutil.rmtree(newest)
    (tmp_path / "run" / "run.json").unlink()
    train(arguments(*words))
    assert [torch.equal(each, kept) for each in taken] == [True]


def test_a_state_that_is_none_is_not_taken_for_one(run, device):
    path = run[0] / "checkpoint-18" / "rng_state.pth"
    for more, good in (({"xla": 7}, True), ({"cuda": [torch.zeros(3, dtype=torch.uint8)]}, True)):
        torch.save({**load(path), **more}, path)
        assert are_random_states(path) is good
    torch.save({**load(path), "xpu": torch.zeros(3)}, path)
    assert are_random_states(path) is False
