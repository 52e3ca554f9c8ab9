import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers.trainer_utils import get_last_checkpoint

from recipe.checkpoints.manifest import MANIFEST, _digest, begin, open_checkpoint, seal
from recipe.checkpoints.rotation import clean
from recipe.errors import Damaged
from tests.checkpoints.contents import FILES, make_checkpoint
from tests.utils import snapshot


def test_a_folder_is_a_checkpoint_once_its_manifest_is_there(tmp_path):
    folder = make_checkpoint(tmp_path, 3)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.step == 3
    assert checkpoint.manifest["files"].keys() == {"a", "sub/b", "trainer_state.json"}
    (folder / MANIFEST).unlink()
    with pytest.raises(Damaged, match=r"manifest.json: not there, so the checkpoint was never finished"):
        open_checkpoint(folder)


def test_a_checkpoint_holds_what_training_changes_and_looks_like_no_model(run):
    folder, _ = run
    weights = load_file(folder / "checkpoint-18" / "trainable.safetensors")
    assert all(name.startswith(("classifier.", "bert.encoder.layer.2.", "bert.encoder.layer.3.")) for name in weights)
    assert {path.name for path in (folder / "checkpoint-18").iterdir()} == set(FILES)
    assert get_last_checkpoint(folder) == str(folder / "checkpoint-18")  # the Trainer's own tools know it


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "sub/../../outside"])
def test_a_manifest_names_no_file_outside_its_folder(tmp_path, name):
    (tmp_path / "outside").write_bytes(b"weights")
    folder = make_checkpoint(tmp_path, 3)
    manifest = json.loads((folder / MANIFEST).read_text())
    content = {"step": 3, "trainable": [], "identity": {}, "files": {name: manifest["files"]["a"]}}
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps({**content, "sha256": _digest(content)}))
    with pytest.raises(Damaged, match="outside its folder"):
        open_checkpoint(folder)


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
