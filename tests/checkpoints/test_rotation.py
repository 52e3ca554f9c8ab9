import shutil
import sys
from pathlib import Path

import pytest

from recipe.checkpoints.manifest import remove_checkpoint
from recipe.checkpoints.rotation import best_step, checkpoint_folders, clean, newest_good, rotate, strangers
from recipe.commands.train import train
from recipe.errors import UserError
from tests.checkpoints.contents import make_checkpoint
from tests.utils import snapshot


@pytest.mark.parametrize(("limit", "kept"), [(1, {8, 16}), (2, {8, 16}), (3, {8, 12, 16}), (None, {4, 8, 12, 16})])
def test_rotation_keeps_the_newest_and_the_best(tmp_path, limit, kept):
    for step in (4, 8, 12, 16):
        make_checkpoint(tmp_path, step)
    rotate(tmp_path, limit, best=8)
    assert {int(path.name.split("-")[1]) for path in checkpoint_folders(tmp_path)} == kept


def test_a_best_evaluation_that_an_earlier_release_never_saved_leaves_the_best_checkpoint_in_its_place(tmp_path):
    state = {"best_global_step": 5, "best_model_checkpoint": str(tmp_path / "checkpoint-4")}
    for step in (4, 6, 8):
        make_checkpoint(tmp_path, step, **state)
    rotate(tmp_path, 2, best_step(newest_good(tmp_path, sys.maxsize)[0].state()))
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["checkpoint-8", "checkpoint-4"]
    assert newest_good(tmp_path, sys.maxsize)[0].step == 8
    assert best_step({"best_global_step": 8, "best_model_checkpoint": None}) == 8


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


def test_what_sharded_runs_leave_half_written_is_theirs(tmp_path):
    folder = tmp_path / "checkpoint-3"
    (folder / "global_step3").mkdir(parents=True)
    names = ["optimizer.bin", "pytorch_model_fsdp.bin", "latest", "zero_to_fp32.py", "zero_to_torch.py"]
    names += ["global_step3/mp_rank_00_model_states.pt", "global_step3/zero_pp_rank_1_mp_rank_00_optim_states.pt"]
    for name in names:
        (folder / name).touch()
    assert strangers(tmp_path) == []
