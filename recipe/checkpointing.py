"""Checkpoints that are complete or absent: the trained weights, and a manifest without which a folder is none.

The manifest is written last, by rename, when all else has reached the disk. It holds size and sha256 of each file, the
names of the trained parameters in the optimizer's order, and the identity of the run (`recipe.resuming`).
"""

import hashlib
import json
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from recipe.durable import sha256_of, sync, write_json
from recipe.errors import Damaged

MANIFEST, STATE = "manifest.json", "trainer_state.json"
STAGING = ".staging"  # where a run puts its final files together


class Checkpoint(NamedTuple):
    """A checkpoint whose every file is what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps behind it."""
        return self.manifest["step"]

    def state(self) -> dict[str, Any]:
        """The Trainer's state at that step."""
        return json.loads((self.folder / STATE).read_text(encoding="utf-8"))


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Make what lies in `folder` a checkpoint: everything reaches the disk, then the manifest is put beside it.

    `content` says whose checkpoint it is: step, trainable, identity, prefix, base_model.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            sync(path)
            files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync(path)
    content = {**content, "files": files}
    write_json(folder / MANIFEST, {**content, "sha256": _digest(content)})
    sync(folder.parent)


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, every byte of it checked.

    Raises:
        Damaged: it is not complete, or not what was written.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        stated = manifest.pop("sha256")
    except FileNotFoundError:
        raise Damaged(f"{path}: not there, so the checkpoint was never finished") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise Damaged(f"{path}: not a manifest") from None
    if stated != _digest(manifest):
        raise Damaged(f"{path}: not what was written")
    for name, expected in manifest["files"].items():
        _check_file(folder, name, expected)
    return Checkpoint(folder, manifest)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_file(folder: Path, name: str, expected: dict[str, Any]) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Damaged(f"{folder / MANIFEST}: names {name!r}, which is outside its folder")
    file = folder / path
    if not file.is_file():
        raise Damaged(f"{file}: not there")
    if file.stat().st_size != expected["size"]:
        raise Damaged(f"{file}: {file.stat().st_size:,} bytes, where {expected['size']:,} were written")
    if sha256_of(file) != expected["sha256"]:
        raise Damaged(f"{file}: not what was written (sha256)")


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """The checkpoint-N folders of a run, finished or not, the newest first."""
    folders = [path for path in output_dir.glob("checkpoint-*") if path.name.split("-")[1].isdecimal()]
    return sorted(folders, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def newest_good(output_dir: Path, limit: int) -> tuple[Checkpoint | None, list[str]]:
    """The newest good checkpoint of at most `limit` steps, and why each newer one is none.

    One whose best checkpoint so far is gone or damaged is not good either: the run would end with another model.
    """
    complaints: list[str] = []
    for folder in checkpoint_folders(output_dir):
        if int(folder.name.split("-")[1]) > limit:
            complaints.append(f"{folder.name} is left out: not every machine has it")
            continue
        try:
            return with_best(folder), complaints
        except Damaged as damage:
            complaints.append(f"{folder.name} is left out: {damage}")
    return None, complaints


def with_best(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, the best one of its run so far, which lies beside it, checked as well.

    Raises:
        Damaged: one of them is not good.
    """
    checkpoint = open_checkpoint(folder)
    state = checkpoint.state()
    best, recorded = state.get("best_global_step"), state.get("best_model_checkpoint")
    beside = folder.parent / f"checkpoint-{best}"
    if best and best != checkpoint.step and recorded:
        open_checkpoint(beside if beside.is_dir() else Path(recorded))
    return checkpoint


OURS = re.compile(
    r"trainable\.safetensors|(optimizer|scheduler|scaler)\.pt|rng_state.*\.pth|.*\.json|\..*\.partial"
    r"|(optimizer|pytorch_model_fsdp)\.bin"  # FSDP
    r"|latest|zero_to_\w+\.py|(bf16_|fp16_)?(zero_pp|mp)_rank_\w+\.pt"  # ZeRO
)


def strangers(output_dir: Path) -> list[Path]:
    """Files in unsealed checkpoint folders that no run of this recipe writes: another program's, not to be removed."""
    torn = [folder for folder in checkpoint_folders(output_dir) if not (folder / MANIFEST).is_file()]
    return [path for folder in torn for path in folder.rglob("*") if path.is_file() and not OURS.fullmatch(path.name)]


def clean(output_dir: Path, step: int) -> None:
    """Remove what a killed run left half-written, and the checkpoints behind `step`, which are no good or made anew."""
    for folder in checkpoint_folders(output_dir):
        if int(folder.name.split("-")[1]) > step or not (folder / MANIFEST).is_file():
            _remove(folder)
    for partial in output_dir.glob(".*.partial"):
        partial.unlink()
    shutil.rmtree(output_dir / STAGING, ignore_errors=True)


def rotate(output_dir: Path, limit: int | None, best: int | None) -> None:
    """Keep the newest `limit` checkpoints, the best among them; every one of them is finished when this is called."""
    if limit is None or limit <= 0:
        return
    folders = checkpoint_folders(output_dir)
    kept = {folders[0].name, f"checkpoint-{best}"} & {folder.name for folder in folders}
    for folder in folders:
        if len(kept) < limit:
            kept.add(folder.name)
    for folder in folders:
        if folder.name not in kept:
            _remove(folder)


def _remove(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)  # first, so that a kill leaves no half a checkpoint that has one
    shutil.rmtree(folder, ignore_errors=True)
