"""A checkpoint's manifest, which makes a folder a checkpoint: size and sha256 of each file, and whose it is.

A first manifest says that the folder is ours and not finished; the one that counts takes its place by rename, when all
else has reached the disk. Removal goes the same way back. What else lies in the folder is not ours, and stays.
"""

import contextlib
import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from recipe.errors import Damaged, Missing
from recipe.file_names import MANIFEST, STATE, WEIGHTS
from recipe.system.files import sha256_of, sync, usual_mode, write_json
from recipe.system.json_files import misfit, read_json

NAME = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})")
PARTIAL = re.compile(r"\.manifest\.json\.[0-9a-f]{32}\.partial")
WRITTEN = re.compile(
    r"trainable\.safetensors|(optimizer|scheduler|scaler)\.pt|rng_state.*\.pth|trainer_state\.json"
    rf"|\.tmp\w{{6}}|{PARTIAL.pattern}"  # of safetensors and of `write_json`
    r"|(optimizer|pytorch_model_fsdp)\.bin"  # FSDP
    r"|latest|zero_to_\w+\.py|(bf16_|fp16_)?(zero_pp|mp)_rank_\w+\.pt"  # ZeRO
)

UNFINISHED = {"unfinished": bool, "files": [str], "others": [str]}  # names that are ours, and that are not
SEALED: dict[str, Any] = {"sha256": str, "step": int, "trainable": [str], "identity": dict}
SEALED["files"] = {str: {"size": int, "sha256": str}}
LOGGED: dict[str, Any] = dict.fromkeys(("epoch?", "eval_accuracy?", "eval_loss?", "eval_runtime?"), float)
STATE_SHAPE = {
    "global_step?": int,
    "epoch?": (float, None),
    "best_global_step?": (int, None),
    "best_model_checkpoint?": (str, None),
    "log_history?": [{"step?": int, **LOGGED, **dict.fromkeys(("eval_pearson?", "eval_spearman?"), (float, None))}],
}


class Checkpoint(NamedTuple):
    """A checkpoint whose every file is what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps behind it."""
        return self.manifest["step"]

    def state(self) -> dict[str, Any]:
        """The Trainer's state at that step.

        Raises:
            Damaged: it is of another shape.
        """
        return read_json(self.folder / STATE, STATE_SHAPE)


def begin(folder: Path) -> None:
    """Say that what is written to `folder` from here on is ours, and what lies there already is not.

    Raises:
        OSError: it is a link, which would lead elsewhere, or cannot be written.
    """
    if folder.is_symlink():
        raise OSError(f"{folder} is a link, which is not followed; move it away")
    folder.mkdir(parents=True, exist_ok=True)
    _write_unfinished(folder, files=[], others=[path.name for path in folder.iterdir()])
    sync(folder.parent)


def _write_unfinished(folder: Path, **names: list[str]) -> None:
    write_json(folder / MANIFEST, {"unfinished": True, **names})


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Make what lies in `folder` a checkpoint: everything reaches the disk, then the manifest is put beside it.

    Its name is what makes the checkpoint count, so files, then names, then manifest are synced in that order: after a
    kill or a loss of power at any point the folder is a whole checkpoint, or says itself that it is not. The manifest
    has a digest of its own, since a disk may damage it as well.

    `content` says whose checkpoint it is: step, trainable, identity, prefix, base_model.
    """
    passed_by = {MANIFEST, *_unfinished(folder)["others"]}  # others: what lay there before `begin`
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.relative_to(folder).parts[0] not in passed_by:
            usual_mode(path)
            sync(path)
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    sync(folder)
    content = {**content, "files": files}
    write_json(folder / MANIFEST, {**content, "sha256": _digest(content)})
    sync(folder.parent)


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, every byte of it checked.

    Raises:
        Damaged: it is not complete, or not what was written.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        _check_file(folder, name, expected)
    if NAME.fullmatch(folder.name) and folder.name != f"checkpoint-{manifest['step']}":
        raise Damaged(f"{folder / MANIFEST}: of step {manifest['step']}")
    return Checkpoint(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a checkpoint's manifest says.

    Raises:
        Damaged: it is missing, or does not count.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path, (SEALED, UNFINISHED))
    except Missing:
        raise Damaged(f"{path}: not there, so the checkpoint was never finished") from None
    if misfit(manifest, SEALED):
        raise Damaged(f"{path}: says that the checkpoint was never finished")
    if manifest.pop("sha256") != _digest(manifest):
        raise Damaged(f"{path}: not what was written")
    return manifest


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_file(folder: Path, name: str, expected: dict[str, Any]) -> None:
    file = folder / name
    if not _inside(name):
        raise Damaged(f"{folder / MANIFEST}: names {name!r}, which is outside its folder")
    if not file.is_file():
        raise Damaged(f"{file}: not there")
    if file.stat().st_size != expected["size"]:
        raise Damaged(f"{file}: {file.stat().st_size:,} bytes, where {expected['size']:,} were written")
    if sha256_of(file) != expected["sha256"]:
        raise Damaged(f"{file}: not what was written (sha256)")


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _unfinished(folder: Path) -> dict[str, list[str]]:
    try:
        return read_json(folder / MANIFEST, UNFINISHED)
    except Damaged:
        return {"files": [], "others": []}


def is_ours(folder: Path) -> bool:
    """Whether a run of this recipe made a folder: it is empty, or has our manifest, or weights under our name."""
    names = {path.name for path in folder.iterdir()}
    if WEIGHTS in names or all(map(PARTIAL.fullmatch, names)):
        return True
    try:
        return bool(read_json(folder / MANIFEST, (SEALED, UNFINISHED)))
    except Damaged:
        return False


def remove_checkpoint(folder: Path) -> None:
    """Remove what is ours in a checkpoint's folder, and the folder, unless it is a link or something else is in it."""
    if folder.is_symlink():
        return
    try:
        names = list(read_manifest(folder)["files"])
        tops = {PurePosixPath(name).parts[0] for name in names}
        others = [path.name for path in folder.iterdir() if path.name not in tops]
        with contextlib.suppress(OSError):  # first, so that a kill leaves no half-removed checkpoint that counts
            _write_unfinished(folder, files=names, others=others)
    except Damaged:
        begun = _unfinished(folder)
        paths = [path for path in folder.rglob("*") if WRITTEN.fullmatch(path.name)]
        ours = [path.relative_to(folder) for path in paths]
        names = begun["files"] + [path.as_posix() for path in ours if path.parts[0] not in begun["others"]]
    left = [path.name for path in folder.iterdir() if PARTIAL.fullmatch(path.name)]  # by a kill at this very point
    _remove(folder, [*filter(_inside, names), *left, MANIFEST])


def _remove(folder: Path, names: list[str]) -> None:
    """Remove files of a folder, and the folders that are empty then."""
    here = folder.resolve()
    for path in (folder / name for name in names):
        with contextlib.suppress(OSError):
            if path.parent.resolve().is_relative_to(here):  # no linked folder is entered
                path.unlink()
    for path in [*sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True), folder]:
        with contextlib.suppress(OSError):
            path.rmdir()
