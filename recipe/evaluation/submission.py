"""CLUE's submission file: its name, its lines, and whether there can be one."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.arguments import DataArguments
from recipe.data.splits import Split
from recipe.system.files import write_text


def submission_name(args: DataArguments) -> str:
    """afqmc_predict.json for the configuration afqmc, which stands for the task where the data are local files too."""
    task = args.dataset_config_name or args.dataset_name.split("/")[-1]
    return re.sub(r"[^\w.-]", "_", task).lstrip(".") + "_predict.json"


def why_no_submission(split: Split, ids: Sequence[Any], labelled: int = 0) -> str | None:
    """Why there can be none: some rows are labelled or left out, an id is missing (None in `ids`) or stands twice."""
    if labelled:
        return f"{labelled:,} of {len(ids):,} rows of {split.source} have a label"
    if split.skipped:
        return f"it must have every row, and of {split.source} {split.left_out()[0]}"
    named = [each for each in ids if each is not None]
    if 0 < len(named) < len(ids):
        return f"{len(ids) - len(named):,} of {len(ids):,} rows of {split.source} have no id"
    twice = [each for each, count in Counter(map(json.dumps, named)).items() if count > 1]
    return f"the id {twice[0]:.40} stands twice in {split.source}" if twice else None


def write_submission(path: Path, labels: Sequence[str], ids: Sequence[Any] | None = None) -> None:
    """CLUE's file: {"id": 0, "label": "0"} a line, in the order of the test split."""
    numbered = zip(range(len(labels)) if ids is None else ids, labels, strict=True)
    write_text(path, "".join(json.dumps({"id": own, "label": label}) + "\n" for own, label in numbered))
