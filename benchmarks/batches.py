"""The work of the benchmark: batches of AFQMC's lengths in each system's own order, and models with random weights."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, BertTokenizer
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.rows import BATCH, METHODS
from recipe.batches.order import StepShape, TrainBatches

HERE = Path(__file__).parent
VOCABULARY = 21128


def lengths_of(split: str) -> list[int]:
    """The token lengths of AFQMC's pairs, shuffled."""
    histogram = json.loads((HERE / "lengths.json").read_text())[split]
    lengths = [int(length) for length, count in histogram.items() for _ in range(count)]
    random.Random(0).shuffle(lengths)
    return lengths


class Lookup:
    """A batching Source over what is in memory."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def take(self, indices: list[int]) -> list[int]:
        """Some of the values."""
        return [self.values[index] for index in indices]

    def skip(self, indices: list[int]) -> None:
        """Nothing to do."""


def _in_batches(lengths: list[int], grouped: bool) -> list[list[int]]:
    order = list(range(len(lengths)))
    if grouped:
        order = get_length_grouped_indices(lengths, BATCH, generator=torch.Generator().manual_seed(0))
    return [[lengths[i] for i in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]


def epoch_batches(key: str, lengths: list[int]) -> list[list[int]]:
    """The lengths of the pairs in each batch of an epoch, as the system's own order makes them."""
    order = METHODS[key[0]].order
    if order == "recipe":
        return list(TrainBatches(lambda: Lookup(lengths), int, len(lengths), StepShape(BATCH), 10_000, 0))
    return [batch for batch in _in_batches(lengths, order == "grouped") if len(batch) == BATCH]


def eval_batches(key: str, lengths: list[int]) -> list[list[int]]:
    """The same of an evaluation: the stock Trainer groups it by length where it groups training."""
    order = METHODS[key[0]].order
    return _in_batches(sorted(lengths) if order == "recipe" else lengths, order == "grouped")


def at_quantiles(batches: list[list[int]], count: int) -> list[list[int]]:
    """`count` batches at even quantiles of their padded size."""
    ordered = sorted((batch for batch in batches if len(batch) == BATCH), key=lambda batch: (max(batch), sum(batch)))
    return [ordered[int((place + 0.5) / count * len(ordered))] for place in range(count)]


def examples(batches: list[list[int]], seed: int) -> list[dict[str, Any]]:
    """Tokenised pairs of those lengths, of random characters; and their texts, which give those tokens."""
    rng = random.Random(seed)
    rows = []
    for length in (length for batch in batches for length in batch):
        half = length // 2
        ids = [101, *(rng.randrange(670, 8000) for _ in range(length - 2)), 102]
        ids[half - 1] = 102
        texts = ["".join(_character(token) for token in part) for part in (ids[1 : half - 1], ids[half:-1])]
        rows.append(
            {
                "input_ids": ids,
                "token_type_ids": [0] * half + [1] * (length - half),
                "labels": rng.randint(0, 1),
                "texts": texts,
            }
        )
    return rows


def _character(token: int) -> str:
    return chr(0x4E00 + token - 104)  # as make_model's vocabulary has them


def make_model(folder: Path, config: BertConfig) -> None:
    """A BERT of that shape, with random weights, and a tokenizer of the size of bert-base-chinese's."""
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    names = ["[PAD]", *(f"[unused{i}]" for i in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names += [chr(0x4E00 + i) for i in range(VOCABULARY - len(names))]
    BertTokenizer(vocab={name: i for i, name in enumerate(names)}, model_max_length=512).save_pretrained(folder)
