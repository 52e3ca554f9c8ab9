"""A validation split out of a training split: stratified, drawn by a seed, and no sentence in both."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recipe.arguments import DataArguments
from recipe.data.pairs import UNLABELLED
from recipe.data.repeats import Keys
from recipe.data.splits import Split, iterate
from recipe.errors import UserError
from recipe.rows.columns import Columns
from recipe.system.files import whole_folder


def groups(rows: Sequence[Keys]) -> np.ndarray:
    """The group of each row, (rows,): two rows that share a sentence, or are joined by such rows, are in one."""
    numbers: dict[bytes, int] = {}
    for keys in rows:
        for key in keys:
            numbers.setdefault(key or keys.first, len(numbers))
    first = np.array([numbers[keys.first] for keys in rows])
    second = np.array([numbers[keys.second or keys.first] for keys in rows])
    joined = coo_array((np.ones(len(rows)), (first, second)), shape=(len(numbers), len(numbers)))
    return connected_components(joined, directed=False)[1][first]


def tenths(scores: np.ndarray) -> list[int]:
    """Which tenth of the scores (rows,) each is in, as near as equal scores stay together: strata of a regression."""
    edges = np.quantile(scores, np.arange(1, 10) / 10)
    return np.searchsorted(edges, scores, side="left").tolist()


def choose_validation(rows: Sequence[Keys], labels: Sequence[int], share: float, seed: int) -> list[bool]:
    """Whether each row goes to the validation split: whole groups in random order, as long as every label has room."""
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups(rows).tolist()):
        members.setdefault(group, []).append(place)
    room = Counter({label: round(share * count) for label, count in Counter(labels).items()})
    order = list(members.values())
    random.Random(seed).shuffle(order)
    chosen = [False] * len(rows)
    for places in order:
        taken = Counter(labels[place] for place in places)
        if all(room[label] >= count for label, count in taken.items()):
            room -= taken
            for place in places:
                chosen[place] = True
    return chosen


def split_folder(args: DataArguments, share: float, seed: int) -> Path:
    """Where the new splits go: beside the training file, or inside --data_dir.

    Raises:
        UserError: the data are the Hub's, or something is there already.
    """
    if not (args.data_dir or args.train_file):
        raise UserError("--split: the new files go beside the old ones; --data_dir or --train_file is expected")
    folder = Path(args.train_file).parent if args.train_file else Path(str(args.data_dir))
    folder /= f"split-{share:g}-seed-{seed}"
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise UserError(f"--split {share:g}: {folder} is there already; move it away, or choose another --seed")
    return folder


def write_division(split: Split, args: DataArguments, chosen: Sequence[bool], folder: Path) -> None:
    """Write train.json and validation.json, their rows in the old order under the old columns' names.

    Raises:
        OSError: the folder cannot be written; nothing of it is there then.
    """
    columns = Columns.of(args)
    with whole_folder(folder) as staging:
        for name, wanted in (("train", False), ("validation", True)):
            rows = (row for row, there in zip(iterate(split.pairs), chosen, strict=True) if there == wanted)
            (staging / f"{name}.json").write_text("".join(_lines(rows, split, columns)), encoding="utf-8")


def _lines(rows: Iterable[dict], split: Split, columns: Columns) -> Iterable[str]:
    for row in rows:
        line = {} if row["id"] is None else {columns.ids[0]: json.loads(row["id"])}
        line |= dict(zip(columns.sentences, (row["sentence1"], row["sentence2"]), strict=False))
        label = row["label"]
        if label == UNLABELLED:
            line[columns.label] = None
        else:
            line[columns.label] = label if split.regression else split.label_names[label]
        yield json.dumps(line, ensure_ascii=False) + "\n"
