"""The order of examples, a pure function of (seed, epoch), and batches of like length.

Examples are put in order and grouped at the size of a whole optimizer step, which is then cut into ranks and
micro-batches. How a step is cut up so never changes which examples it sees.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, get_worker_info

from recipe.arguments import UserError
from recipe.tokens import Example

WINDOW_STEPS = 50  # optimizer steps whose examples are sorted by length together: 1.04 tokens carried for each real one
IGNORED_LABEL = -100  # cross_entropy's ignore_index

Take = Callable[[list[int]], Sequence[Any]]


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
    """Cut a window of shuffled indices into steps of like length, in random order; what fills no step comes last."""
    whole = len(window) - len(window) % step_size
    by_length = sorted(window[:whole], key=lengths.__getitem__)
    steps = [by_length[start : start + step_size] for start in range(0, whole, step_size)]
    rng.shuffle(steps)
    return steps + ([sorted(window[whole:], key=lengths.__getitem__)] if whole < len(window) else [])


def cut_step(step: Sequence[int], shape: StepShape) -> list[list[int]]:
    """This rank's micro-batches of a step: neighbours in length go to different ranks at the same time.

    A last step too short to give every rank an example leaves some micro-batches empty.
    """
    pieces = math.ceil(len(step) / (shape.per_device * shape.ranks)) * shape.ranks
    bounds = [len(step) * piece // pieces for piece in range(pieces + 1)]
    return [list(step[bounds[i] : bounds[i + 1]]) for i in range(shape.rank, pieces, shape.ranks)]


class TrainBatches(IterableDataset):
    """One epoch of this rank's micro-batches, each a list of what `open_source()` gives for its indices.

    Args:
        open_source: starts a pass and returns `take`: indices -> examples. A pass asks for every index once, and never
            further ahead than the shuffle buffer and one window.
        length_of: tokens of an example.
        count: examples in an epoch.
    """

    def __init__(
        self,
        open_source: Callable[[], Take],
        length_of: Callable[[Any], int],
        count: int,
        shape: StepShape,
        buffer_size: int,
        seed: int,
    ) -> None:
        self.open_source, self.length_of, self.count = open_source, length_of, count
        self.shape, self.buffer_size, self.seed = shape, buffer_size, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers must see it change

    @property
    def epoch(self) -> int:
        """The epoch whose order the next pass has."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose that epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        steps, rest = divmod(self.count, self.shape.examples)
        return steps * self.shape.accumulation + math.ceil(rest / (self.shape.per_device * self.shape.ranks))

    def __iter__(self) -> Iterator[list[Any]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        yield from islice(self._micro_batches(), first, None, stride)

    def _micro_batches(self) -> Iterator[list[Any]]:
        take = self.open_source()
        order = shuffled(self.count, self.buffer_size, random.Random(f"{self.seed} {self.epoch}"))
        for number in range(math.ceil(self.count / (WINDOW_STEPS * self.shape.examples))):
            window = list(islice(order, WINDOW_STEPS * self.shape.examples))
            examples = dict(zip(window, take(window), strict=True))
            lengths = {index: self.length_of(example) for index, example in examples.items()}
            rng = random.Random(f"{self.seed} {self.epoch} {number}")
            for step in group_by_length(window, lengths, self.shape.examples, rng):
                for indices in cut_step(step, self.shape):
                    yield [examples[i] for i in indices] or [_ignored(examples[step[0]])]


def _ignored(example: Any) -> Any:
    """An example that adds nothing to loss or gradient, for a rank that must take part without one of its own."""
    return {**example, "labels": IGNORED_LABEL}


def open_stream(examples: Iterable[Example], count: int, source: str) -> Take:
    """A `take` that reads `examples` once, front to back, and holds what is not asked for yet.

    Raises:
        UserError: (from take) the stream has fewer or more than `count` examples.
    """
    stream = iter(examples)
    held: dict[int, Example] = {}
    position = 0

    def take(indices: list[int]) -> list[Example]:
        """Read on as far as needed."""
        nonlocal position
        for index in indices:
            while position <= index:
                example = next(stream, None)
                if example is None:
                    raise UserError(
                        f"{source}: {position:,} rows, where its metadata or an earlier pass said {count:,}"
                    )
                held[position] = example
                position += 1
        if position == count and next(stream, None) is not None:
            raise UserError(f"{source}: more rows than the {count:,} of its metadata or an earlier pass")
        return [held.pop(index) for index in indices]

    return take


def open_arrow(examples: Any) -> Take:
    """A `take` that looks indices up in a datasets.Dataset."""

    def take(indices: list[int]) -> list[Example]:
        columns = examples[indices]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    return take
