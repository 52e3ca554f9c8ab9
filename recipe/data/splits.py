"""A split of the data: its pairs, how many there are, and what is told of them."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import datasets

from recipe.arguments import DataArguments
from recipe.errors import RunError, UserError
from recipe.rows.columns import Columns
from recipe.system.hub import is_hubs, refusal

AnyDataset: TypeAlias = Any  # datasets.IterableDataset when streaming, datasets.Dataset in Arrow


@dataclass
class Split:
    """One split, opened: `pairs` has sentence1, sentence2, label, and id.

    A label is an id, or a score where there is one name only; UNLABELLED where there is none.

    sentence2 is None throughout where rows are single sentences. The id is the row's own as JSON, None where it has
    none.
    """

    name: str
    source: str
    pairs: AnyDataset
    rows: int
    label_names: list[str]
    fingerprint: str  # sha256 of its files, or of their revision on the Hub
    skipped: list[str] = field(default_factory=list)
    shards: int = 1  # into how many parts `pairs` can be divided without reading it
    notes: list[str] = field(default_factory=list)  # what was decided in reading it
    unit: str = "pairs"  # or sentences
    examples: AnyDataset = None  # its pairs as tokens, once they are asked for

    @property
    def regression(self) -> bool:
        """Whether a label is a score."""
        return len(self.label_names) == 1

    def describe(self) -> str:
        """What it is, in a line."""
        return "; ".join([f"{self.name}: {self.rows:,} {self.unit} from {self.source}", *self.left_out(), *self.notes])

    def left_out(self) -> list[str]:
        """How many rows were left out, and why the first; nothing where none was."""
        return [f"{len(self.skipped):,} bad rows left out, the first: {self.skipped[0]}"] if self.skipped else []


def features_of(label_names: Sequence[str]) -> datasets.Features:
    """The columns of `Split.pairs`."""
    label = "float64" if len(label_names) == 1 else "int64"
    kinds = {"sentence1": "string", "sentence2": "string", "label": label, "id": "string"}
    return datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})


def unit_of(args: DataArguments) -> str:
    """What a row is."""
    return "pairs" if len(Columns.of(args).sentences) == 2 else "sentences"


def iterate(examples: AnyDataset) -> Iterator[dict[str, Any]]:
    """The examples one by one, all of them in every process.

    `iter(examples)` inside a DataLoader worker would give each worker other rows; the order deals them out itself.
    """
    for batch in iterate_batches(examples):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def iterate_batches(examples: AnyDataset, batch_size: int = 1000) -> Iterator[dict[str, list[Any]]]:
    """`iterate` by the thousand, or by `batch_size`, as columns.

    Raises:
        UserError: (while reading) the Hub refuses the data: of a gated set it tells the metadata, and no row.
        RunError: it is gone.
    """
    try:
        yield from examples.iter(batch_size=batch_size)
    except Exception as error:
        if isinstance(error, UserError) or not is_hubs(error):
            raise
        if refused := refusal(error):
            raise UserError(f"the data cannot be read from the Hub: {refused}") from error
        reason = " ".join(str(error).split())[:160]
        raise RunError(f"the data cannot be read on from the Hub: {reason}; the same command goes on later") from error


@contextlib.contextmanager
def writing_arrow() -> Iterator[None]:
    """What fails while Arrow's cache is written, in a line.

    Raises:
        UserError: the folder cannot be written, or a row is not a pair.
    """
    try:
        yield
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"--no_streaming: {datasets.config.HF_DATASETS_CACHE} cannot be written ({cause.strerror or cause}); name "
            "another folder with HF_HOME, or leave --no_streaming out"
        ) from error
