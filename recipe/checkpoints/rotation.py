"""The checkpoints in a run's folder: which are ours, the newest good one, and which of them are kept."""

import contextlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recipe.checkpoints.manifest import NAME, Checkpoint, is_ours, open_checkpoint, read_manifest, remove_checkpoint
from recipe.errors import Damaged
from recipe.system.files import remove_temporary

THEIRS = re.compile(r"(model|pytorch_model(?!_fsdp)|adapter_model).*\.(safetensors|bin|json)|(optimizer|scheduler)\.pt")


def step_of(folder: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(folder.name.removeprefix("checkpoint-"))


def _named(output_dir: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        paths = [path for path in output_dir.iterdir() if NAME.fullmatch(path.name)]
        return sorted(path for path in paths if path.is_dir() and not path.is_symlink())
    return []


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Our checkpoint-N folders, finished or not, the newest first; links do not count."""
    return sorted(filter(is_ours, _named(output_dir)), key=step_of, reverse=True)


def linked_checkpoints(output_dir: Path) -> list[Path]:
    """What is named as our checkpoints and is a link, which nothing follows."""
    return [path for path in sorted(output_dir.glob("checkpoint-*")) if NAME.fullmatch(path.name) and path.is_symlink()]


def strangers(output_dir: Path) -> list[Path]:
    """Another program's weights and optimizers in checkpoint-N folders, among which ours would come to lie."""
    foreign = [folder for folder in _named(output_dir) if not is_ours(folder)]
    return [path for folder in foreign for path in sorted(folder.iterdir()) if THEIRS.fullmatch(path.name)]


def best_step(state: Mapping[str, Any]) -> int | None:
    """The step of the best checkpoint by the Trainer's state.

    An earlier release may have left a best evaluation, `best_global_step`, that was never saved.
    """
    name = Path(state.get("best_model_checkpoint") or "").name
    return int(name.removeprefix("checkpoint-")) if NAME.fullmatch(name) else state.get("best_global_step")


def best_folder(state: Mapping[str, Any], *folders: Path) -> str | None:
    """The best checkpoint in the first of `folders` that has it, else where the Trainer's state says that it is.

    What the state names is gone, or another run's, where the run's folder was moved.
    """
    step = state.get("best_global_step")
    places = [folder / f"checkpoint-{step}" for folder in folders if step]
    return next((str(place) for place in places if place.is_dir()), state.get("best_model_checkpoint"))


def with_best(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, the best one of its run so far, which lies beside it, checked as well.

    Raises:
        Damaged: one of them is not good.
    """
    checkpoint = open_checkpoint(folder)
    state = checkpoint.state()
    best, recorded = best_step(state), state.get("best_model_checkpoint")
    beside = folder.parent / f"checkpoint-{best}"
    if best and best != checkpoint.step and recorded:
        open_checkpoint(beside if beside.is_dir() else Path(recorded))
    return checkpoint


def newest_good(
    output_dir: Path, limit: int, open_good: Callable[[Path], Checkpoint] = with_best
) -> tuple[Checkpoint | None, list[str]]:
    """The newest good checkpoint of at most `limit` steps, and what is wrong with each newer one.

    One whose best checkpoint so far is gone or damaged is not good either: the run would end with another model.
    """
    complaints: list[str] = []
    for folder in checkpoint_folders(output_dir):
        if step_of(folder) > limit:
            complaints.append(f"{folder.name} is left out: not every machine has it")
            continue
        try:
            return open_good(folder), complaints
        except Damaged as damage:
            complaints.append(f"{folder.name} is left out: {damage}")
    return None, complaints


def clean(output_dir: Path, step: int) -> None:
    """Remove what a killed run left half-written, and the checkpoints behind `step`, which are no good or made anew."""
    for folder in checkpoint_folders(output_dir):
        if step_of(folder) > step or not _is_sealed(folder):
            remove_checkpoint(folder)
    remove_temporary(output_dir)


def _is_sealed(folder: Path) -> bool:
    try:
        return bool(read_manifest(folder))
    except Damaged:
        return False


def rotate(output_dir: Path, limit: int | None, best: int | None) -> None:
    """Keep the newest `limit` checkpoints, the best among them."""
    folders = list(filter(_is_sealed, checkpoint_folders(output_dir)))
    if limit is None or limit <= 0 or not folders:
        return
    kept = {folders[0].name, f"checkpoint-{best}"} & {folder.name for folder in folders}
    for folder in folders:
        if len(kept) < limit:
            kept.add(folder.name)
    for folder in folders:
        if folder.name not in kept:
            remove_checkpoint(folder)


def keep_alone(output_dir: Path, step: int | None) -> None:
    """Remove all checkpoints but the one of that step."""
    for folder in checkpoint_folders(output_dir):
        if step_of(folder) != step:
            remove_checkpoint(folder)
