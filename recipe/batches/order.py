"""The order of examples, a pure function of (seed, epoch), and batches of like length.

Examples are put in order and grouped at the size of a whole optimizer step, which is then cut into ranks and
micro-batches. So how a step is cut up never changes which examples it sees.
"""

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import IterableDataset, get_worker_info

from recipe.batches.tokens import Example
from recipe.data.pairs import UNLABELLED
from recipe.errors import UserError

WINDOW_STEPS = 50  # optimizer steps whose examples are sorted by length together: 1.04 tokens carried for each real one


class Source(Protocol):
    """One pass over a split's examples, in the order that `TrainBatches` asks for them."""

    def take(self, indices: list[int]) -> Sequence[Any]:
        """The examples at `indices`."""

    def skip(self, indices: list[int]) -> None:
        """Pass by the examples at `indices`; a source that can seek does nothing."""


class StepShape(NamedTuple):
    """How an optimizer step is cut up: examples a micro-batch, micro-batches a rank, ranks, and which rank this is."""

    per_device: int
    accumulation: int = 1
    ranks: int = 1
    rank: int = 0

    @property
    def examples(self) -> int:
        """Examples in a whole step, over all ranks and micro-batches."""
        return self.per_device * self.accumulation * self.ranks


def shuffled(count: int, buffer_size: int, rng: random.Random) -> Iterator[int]:
    """0..count-1 as a shuffle buffer of a stream gives them: each is drawn from the `buffer_size` next in line."""
    held = list(range(min(buffer_size, count)))
    for index in range(len(held), count):
        slot = rng.randrange(buffer_size)
        yield held[slot]
        held[slot] = index
    rng.shuffle(held)
    yield from held


def group_by_length(window: list[int], lengths: dict[int, int], step_size: int, rng: random.Random) -> list[list[int]]:
    """Cut a window of shuffled indices into steps of like length, in random order; what fills none comes last."""
    whole = len(window) - len(window) % step_size
    by_length = sorted(window[:whole], key=lengths.__getitem__)
    steps = [by_length[start : start + step_size] for start in range(0, whole, step_size)]
    rng.shuffle(steps)
    return steps + ([sorted(window[whole:], key=lengths.__getitem__)] if whole < len(window) else [])


def cut_step(step: Sequence[int], shape: StepShape) -> list[list[int]]:
    """This rank's micro-batches of a step: neighbours in length go to different ranks at the same time.

    All ranks wait for the slowest of them, so they should have batches of like length. A last step is spread over
    them evenly, since each must take part in every exchange of gradients; one too short to give every rank an example
    leaves some micro-batches empty.
    """
    pieces = math.ceil(len(step) / (shape.per_device * shape.ranks)) * shape.ranks
    bounds = [len(step) * piece // pieces for piece in range(pieces + 1)]
    return [list(step[bounds[i] : bounds[i + 1]]) for i in range(shape.rank, pieces, shape.ranks)]


class TrainBatches(IterableDataset):
    """One epoch of this rank's micro-batches, each a list of what `open_source()` gives for its indices.

    Args:
        open_source: starts a pass, which takes or skips every index once, and never further ahead than the shuffle
            buffer and one window.
        length_of: tokens of an example.
        count: examples in an epoch.
    """

    def __init__(
        self,
        open_source: Callable[[], Source],
        length_of: Callable[[Any], int],
        count: int,
        shape: StepShape,
        buffer_size: int,
        seed: int,
    ) -> None:
        self.open_source, self.length_of = open_source, length_of
        self.count, self.shape, self.buffer_size, self.seed = count, shape, buffer_size, seed
        # epoch, and micro-batches of it to pass by; persistent workers must see them change
        self._place = torch.zeros(2, dtype=torch.int64)
        with contextlib.suppress(RuntimeError):  # no room in /dev/shm, and so none for workers
            self._place.share_memory_()

    def set_epoch(self, epoch: int, passed: int = 0) -> None:
        """Choose that epoch; its first `passed` micro-batches are given as None, for a resume to throw away."""
        self._place.copy_(torch.tensor([epoch, passed]))

    def __len__(self) -> int:
        steps, rest = divmod(self.count, self.shape.examples)
        return steps * self.shape.accumulation + math.ceil(rest / (self.shape.per_device * self.shape.ranks))

    def __iter__(self) -> Iterator[list[Any] | None]:
        # Each worker makes all of them, and hands over its own: the loader takes one of each worker in turn.
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        yield from islice(self._micro_batches(), first, None, stride)

    def _micro_batches(self) -> Iterator[list[Any] | None]:
        source, (epoch, passed) = self.open_source(), self._place.tolist()
        order = shuffled(self.count, self.buffer_size, random.Random(f"{self.seed} {epoch}"))
        for number in range(math.ceil(self.count / (WINDOW_STEPS * self.shape.examples))):
            window = list(islice(order, WINDOW_STEPS * self.shape.examples))
            if passed >= WINDOW_STEPS * self.shape.accumulation:
                source.skip(window)
                passed -= WINDOW_STEPS * self.shape.accumulation
                yield from [None] * (WINDOW_STEPS * self.shape.accumulation)
                continue
            examples = dict(zip(window, source.take(window), strict=True))
            lengths = {index: self.length_of(example) for index, example in examples.items()}
            rng = random.Random(f"{self.seed} {epoch} {number}")  # of its own, so that a window can be skipped
            for step in group_by_length(window, lengths, self.shape.examples, rng):
                for indices in cut_step(step, self.shape):
                    passed -= 1
                    # a rank without an example of its own must take part with one that adds nothing to the gradient
                    batch = [examples[i] for i in indices] or [_unlabelled(examples[step[0]])]
                    yield batch if passed < 0 else None


def _unlabelled(example: Any) -> Any:
    """The example without its label, which stays of its own type: an id, or a score."""
    return {**example, "labels": type(example["labels"])(UNLABELLED)}


class Stream:
    """A Source that reads `examples` once, front to back, and holds what is not asked for yet.

    Raises:
        UserError: (while reading) the stream has fewer or more than `count` examples.
    """

    def __init__(self, examples: Iterable[Example], count: int, name: str) -> None:
        self._rest, self._count, self._name = iter(examples), count, name
        self._held: dict[int, Example] = {}
        self._position = 0

    def take(self, indices: list[int]) -> list[Example]:
        """Read on as far as needed."""
        for index in indices:
            while self._position <= index:
                example = next(self._rest, None)
                if example is None:
                    said = f"where its metadata or an earlier pass said {self._count:,}"
                    raise UserError(f"{self._name}: {self._position:,} rows, {said}")
                self._held[self._position] = example
                self._position += 1
        if self._position == self._count and next(self._rest, None) is not None:
            raise UserError(f"{self._name}: more rows than the {self._count:,} of its metadata or an earlier pass")
        return [self._held.pop(index) for index in indices]

    def skip(self, indices: list[int]) -> None:
        """Read past them: a stream cannot seek."""
        self.take(indices)


class ArrowLookup:
    """A Source over a datasets.Dataset."""

    def __init__(self, examples: Any) -> None:
        self._examples = examples

    def take(self, indices: list[int]) -> list[Example]:
        """Look them up."""
        columns = self._examples[indices]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def skip(self, indices: list[int]) -> None:
        """Nothing to do."""
