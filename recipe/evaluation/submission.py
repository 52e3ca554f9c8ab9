"""CLUE's submission file: its name, its lines, and whether there can be one."""

import json
import re
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipe.arguments import DataArguments
from recipe.data.opening import reads_files
from recipe.data.splits import Split
from recipe.evaluation.predictions import read_predictions
from recipe.rows.columns import Columns
from recipe.system.files import write_parts


def submission_name(args: DataArguments) -> str:
    """afqmc_predict.json for the configuration afqmc, which stands for the task where the data are local files too."""
    task = args.dataset_config_name or args.dataset_name.split("/")[-1]
    return re.sub(r"[^\w.-]", "_", task).lstrip(".") + "_predict.json"


def submit(args: DataArguments, predictions: Path, split: Split, own_names: Mapping[str, str]) -> str | None:
    """Write the submission file, or take an older one away where there can be none; gives what to say of it.

    None, and nothing is done, where every row has a label, or the rows are somebody's own: no test split of the task's.

    Args:
        own_names: what the data call a label, by the name that it has in `predictions`.
    """
    path, seen = predictions.with_name(submission_name(args)), _Seen.of(predictions)
    if seen.labelled == seen.rows or _is_somebodys_own(args, split, seen):
        return None
    reason = _why_none(split, predictions, seen)
    if reason is not None:
        path.unlink(missing_ok=True)
        return f"submission      none is written: {reason}"
    write_parts(path, _lines(predictions, own_names))
    numbered = "" if seen.ids else "; numbered from 0, since no row has an id"
    return f"submission      {path}: {seen.rows:,} lines, one for each row{numbered}"


def _is_somebodys_own(args: DataArguments, split: Split, seen: "_Seen") -> bool:
    """Whether the rows are of files that nothing says are the task's: AFQMC, the default, stands there for any.

    AFQMC's own have the columns sentence1 and sentence2, labels 0 and 1, and ids from 0 on.
    """
    if args.dataset_config_name != DataArguments.dataset_config_name or not reads_files(args):
        return False
    return Columns.of(args) != Columns() or split.label_names != ["0", "1"] or seen.first_id != 0


class _Seen(NamedTuple):
    """What decides whether there can be one: how many rows, with a label, and the hashes of ids, 8 bytes each."""

    rows: int
    labelled: int
    ids: "array[int]"
    first_id: Any  # None where the first row has none

    @classmethod
    def of(cls, predictions: Path) -> "_Seen":
        """By one pass."""
        rows, labelled, ids, first = 0, 0, array("q"), None
        for line in read_predictions(predictions):
            first = line.get("id") if rows == 0 else first
            rows += 1
            labelled += line["label"] is not None
            if "id" in line:
                ids.append(hash(json.dumps(line["id"])))
        return cls(rows, labelled, ids, first)


def _why_none(split: Split, predictions: Path, seen: _Seen) -> str | None:
    """Some rows are labelled or left out, an id is missing, or one stands twice; None where there can be one."""
    if seen.labelled:
        return f"{seen.labelled:,} of {seen.rows:,} rows of {split.source} have a label"
    if split.skipped:
        return f"it must have every row, and of {split.source} {split.left_out()[0]}"
    if 0 < len(seen.ids) < seen.rows:
        return f"{seen.rows - len(seen.ids):,} of {seen.rows:,} rows of {split.source} have no id"
    twice = _id_that_stands_twice(predictions, seen.ids)
    return f"the id {twice:.40} stands twice in {split.source}" if twice else None


def _id_that_stands_twice(predictions: Path, hashes: "array[int]") -> str | None:
    """As JSON. Those are looked at whose hash stands twice, which two ids may have in common."""
    values, counts = np.unique(np.asarray(hashes, dtype=np.int64), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    seen: set[str] = set()
    for line in read_predictions(predictions) if suspects else ():
        own = json.dumps(line["id"])
        if own in seen:
            return own
        if hash(own) in suspects:
            seen.add(own)
    return None


def _lines(predictions: Path, own_names: Mapping[str, str]) -> Iterator[bytes]:
    """CLUE's: {"id": 0, "label": "0"} a line, in the order of the test split."""
    for number, line in enumerate(read_predictions(predictions)):
        row = {"id": line.get("id", number), "label": own_names[line["prediction"]]}
        yield (json.dumps(row) + "\n").encode()
