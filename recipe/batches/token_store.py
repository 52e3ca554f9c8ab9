"""A training split's tokens on disk, memory-mapped: read from its source once, its shards divided among the ranks.

In memory they would grow with the rows (150 bytes a pair of AFQMC); here they are pages that the system may drop.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainingArguments

from recipe.batches.tokens import Tokens, flat_columns
from recipe.data.splits import AnyDataset, iterate_batches
from recipe.system.cache_folder import unfinished_folder
from recipe.system.distributed import Share, first_on_machine, from_all_ranks, together
from recipe.system.files import create_file

PARTS = {"input_ids": torch.int32, "token_type_ids": torch.uint8, "offsets": torch.int64, "labels": torch.int64}


def store_tokens(
    examples: AnyDataset, shards: int, directory: Path, args: TrainingArguments, scores: bool = False
) -> Tokens:
    """The tokens of all examples, in order; the ranks of a machine each read some of the shards. Collective.

    The files are unlinked as soon as they are mapped, so that nothing is left behind.

    Args:
        examples: tokenised.
        shards: into how many parts they can be divided; one is read by the machine's first rank alone.
        directory: where there is room.
        scores: whether labels are numbers and not ids.

    Raises:
        OSError: the disk is full, or cannot be written.
        UserError: a row is not a pair.
    """
    share = Share.of(args)
    with unfinished_folder(directory, args) as folder:
        cut = together(args, lambda: _write_shards(examples, shards, folder, share), OSError)
        here = from_all_ranks(args, cut)[first_on_machine(args) :][: share.ranks]
        together(args, lambda: _join(folder, shards) if share.rank == 0 else None, OSError)
        return together(args, lambda: _map(folder, scores), OSError)._replace(cut=sum(here))


def _write_shards(examples: AnyDataset, shards: int, folder: Path, share: Share) -> int:
    """This rank's shards; how many of its pairs were cut."""
    cut = 0
    for number in range(share.rank, shards, share.ranks):
        part = examples.shard(shards, number) if shards > 1 else examples
        cut += _write_part(folder, number, iterate_batches(part))
    return cut


def _write_part(folder: Path, number: int, batches: Iterator[dict[str, list[Any]]]) -> int:
    cut = 0
    files = {name: create_file(folder / f"{name}-{number}") for name in PARTS}
    try:
        for batch in batches:
            columns = flat_columns(batch)
            columns["offsets"] = columns.pop("lengths")  # until the parts are joined
            for name, column in columns.items():
                files[name].write(column.data)
            cut += sum(batch["cut"])
    finally:
        for file in files.values():
            file.close()
    return cut


def _join(folder: Path, shards: int) -> None:
    """One file of each kind, in the order of the shards; lengths become offsets."""
    for name in PARTS:
        with create_file(folder / name) as joined:
            if name == "offsets":
                joined.write(bytes(8))
            total = 0
            for number in range(shards):
                part = folder / f"{name}-{number}"
                if name == "offsets":
                    ends = total + np.fromfile(part, dtype=np.int64).cumsum()
                    joined.write(ends.data)
                    total = int(ends[-1]) if len(ends) else total
                else:
                    with open(part, "rb") as file:
                        shutil.copyfileobj(file, joined, 1 << 20)
                part.unlink()


def _map(folder: Path, scores: bool = False) -> Tokens:
    parts = PARTS | ({"labels": torch.float64} if scores else {})
    ids, types, offsets, labels = (_tensor(folder / name, dtype) for name, dtype in parts.items())
    return Tokens(ids, types, offsets, labels)


def _tensor(path: Path, dtype: torch.dtype) -> Tensor:
    count = path.stat().st_size // dtype.itemsize
    return torch.from_file(str(path), shared=False, size=count, dtype=dtype) if count else torch.empty(0, dtype=dtype)
