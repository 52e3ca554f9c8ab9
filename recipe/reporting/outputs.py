"""The files of a finished run in output_dir: put there whole, looked after, and never over somebody else's."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from recipe.checkpoints.manifest import remove_checkpoint
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.errors import Damaged, UserError
from recipe.evaluation.predictions import begins_as_answers
from recipe.file_names import (
    CARD,
    CODE,
    CONFUSION,
    CURVE,
    FIGURES,
    MANIFEST,
    MODEL,
    PREDICTIONS,
    RELIABILITY,
    RESULTS,
    RUN,
    SCATTER,
    SCORES,
    STATE,
)
from recipe.model.modeling import BertForPairwiseCLS, BertPairwiseCLSConfig
from recipe.system.files import TEMPORARY, make_folder, publish, remove_temporary, sha256_of, staging_folder, sync
from recipe.system.json_files import read_json

NAMES = (
    *("config.json", MODEL, *CODE, "tokenizer.json", "tokenizer_config.json"),
    *(RUN, STATE, SCORES, RESULTS, "train_results.json", CARD, *FIGURES),
)
FORMS = ("onnx", "stock")  # folders of `recipe.serving.export`


def check_output(folder: Path, base: str) -> None:
    """Check that a run may write to `folder`: it is new, an earlier run's, or has no file that a run would replace.

    Args:
        base: --model_name_or_path.

    Raises:
        UserError: it may not.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(f"--output_dir {folder}: its path is not UTF-8, which weights cannot be saved to") from None
    if not os.path.isdir(folder):  # False also of a name that is too long, which the lock refuses
        return
    if Path(base).is_dir() and folder.samefile(base):
        raise UserError(f"--output_dir {folder}: the model to start from is there; name another folder")
    for name in NAMES:
        if (folder / name).is_dir():
            raise UserError(f"--output_dir {folder}: {name} in it is a folder, not a file; move it away")
        if (folder / name).exists() and not _is_a_runs(folder):
            raise UserError(
                f"--output_dir {folder}: {name} is there, which no run of this recipe wrote and a run would replace; "
                "name another folder"
            )


def check_free(path: Path, ours: bool) -> None:
    """Check that a sweep or a search may write `path`: it is new or `ours`, and no link, which would lead elsewhere.

    Raises:
        UserError: it may not.
    """
    if path.is_symlink() or (path.exists() and not ours):
        raise UserError(
            f"--output_dir {path.parent}: {path.name} is there, which this command did not write and would replace; "
            "name another folder"
        )


def check_answers(folder: Path, names: Sequence[str]) -> None:
    """Check that scores, predictions or a submission may be written as `names`: nothing of somebody else's is there.

    Raises:
        UserError: it is.
    """
    for path in (folder / name for name in names):
        ours = path.is_file() and (not path.stat().st_size or begins_as_answers(path))
        check_free(path, ours or (path.name in NAMES and path.exists() and _is_a_runs(folder)))


def check_writable(folder: Path, flag: str = "--output_dir") -> None:
    """Check that `folder`, which `flag` names, can be written to, or made; nothing of it stays.

    Raises:
        UserError: it cannot.
    """
    try:
        made = make_folder(folder)
        with staging_folder(folder):
            pass
        for each in made:
            each.rmdir()
    except OSError as error:
        raise UserError(f"{flag} {folder}: {error.strerror}; a folder that can be written is expected") from error


def _is_a_runs(folder: Path) -> bool:
    """Whether a run wrote to it, finished or not."""
    if any(TEMPORARY.fullmatch(path.name) for path in folder.iterdir()):
        return True
    if any((each / MANIFEST).is_file() for each in checkpoint_folders(folder)):
        return True
    for name, shape in ((RUN, {"identity": dict, "model_sha256": str}), ("config.json", {"model_type": str})):
        try:
            content = read_json(folder / name, shape)
        except Damaged:
            continue
        if name == RUN or content["model_type"] == BertPairwiseCLSConfig.model_type:
            return True
    return False


@contextmanager
def staged(folder: Path, last: Sequence[str] = ()) -> Iterator[Path]:
    """A folder for files to be put together in; at the end of the block each is moved to `folder`, whole.

    Args:
        last: names that are moved after all others, in that order.
    """
    with staging_folder(folder) as staging:
        yield staging
        publish(staging, folder, last)


def write_model(
    staging: Path, model: BertForPairwiseCLS, tokenizer: PreTrainedTokenizerBase, weights: dict[str, Any] | None = None
) -> list[str]:
    """Write weights, configuration, code and tokenizer; gives the files' names."""
    model.save_pretrained(staging, state_dict=weights)
    tokenizer.save_pretrained(staging)
    return sorted(path.name for path in staging.iterdir())


def card_names(scored: bool, regression: bool) -> list[str]:
    """The files of a model card, with a validation split or without."""
    if not scored:
        return [CARD, CURVE]
    return [CARD, CURVE, SCATTER] if regression else [CARD, CURVE, CONFUSION, RELIABILITY]


def missing_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Those that are gone, empty, or no object of JSON any longer."""
    return [name for name in names if not _is_good(folder / name)]


def _is_good(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            read_json(path, dict)
        return path.is_file() and os.path.getsize(path) > 0
    except (OSError, Damaged):
        return False


def remove_answers(folder: Path, sha256: str) -> list[str]:
    """Remove scores and answers of the model in `folder` where that of `sha256` takes its place; what of it stays.

    A folder of an exported form stays, since whoever made it may have put more into it.
    """
    if not (folder / MODEL).is_file() or sha256_of(folder / MODEL) == sha256:
        return []
    found = [path for pattern in ("eval_results*.json", PREDICTIONS, "*_predict.json") for path in folder.glob(pattern)]
    remove_files([path for path in found if path.is_file() and not path.is_symlink() and begins_as_answers(path)])
    return [name for name in FORMS if (folder / name).is_dir()]


def remove_files(paths: Iterable[Path]) -> None:
    """Remove those that are there, of one folder; on its disk they are gone then."""
    there = [path for path in paths if path.exists()]
    for path in there:
        path.unlink()
    if there:
        sync(there[0].parent)


def remove_run(folder: Path) -> None:
    """Remove a run's files and checkpoints, and its folder, unless something else lies in it or it is a link."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for checkpoint in checkpoint_folders(folder):
        remove_checkpoint(checkpoint)
    remove_temporary(folder)
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
