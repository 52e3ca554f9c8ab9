"""Runs to go on from, trained once a session and copied for each test."""

import shutil

import pytest

from recipe.commands.train import train
from tests.checkpoints.contents import STEPS


@pytest.fixture(scope="session")
def begun_once(tmp_path_factory):
    """Where a run of one epoch of two is made, by the first test that asks for it."""
    return tmp_path_factory.mktemp("begun") / "run"


@pytest.fixture
def begun(arguments, begun_once, tmp_path):
    """A run that stopped after its first epoch: (folder, a function that runs the same command with more words)."""
    words = ["--num_train_epochs=2", "--prefix_cache=off"]
    if not begun_once.exists():
        train(arguments(*words, f"--output_dir={begun_once}"))
    folder = tmp_path / "run"
    shutil.copytree(begun_once / "checkpoint-9", folder / "checkpoint-9")
    return folder, lambda *more: train(arguments(*words, *more))


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run with all of its checkpoints (4, 8, 12, 16, 18), made by the first test that asks for it."""
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
