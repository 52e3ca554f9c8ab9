#!/usr/bin/env python3
"""The recipe beside its peers: each system in a process of its own, on the same work, taking steps in turn.

    make bench

All are BERT-base in shape, with random weights; the batches have AFQMC's lengths (lengths.json). Of each system's epoch
a few batches are taken, at even quantiles of their padded size, so that their mean is the epoch's. Ratios are of means
over those batches, each the median over rounds.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, BertTokenizer
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import logging

from benchmarks.report import draw, print_table
from recipe.batches.order import Order, StepShape, TrainBatches

HERE = Path(__file__).parent
BATCH, MAX_LENGTH, VOCABULARY = 32, 128, 21128
SYSTEMS = {
    "a": "stock, full, padded to 128 (run_glue)",
    "b": "stock, full, dynamic padding",
    "c": "stock, 0-9 frozen, dynamic padding",
    "d": "stock, 0-9 frozen, group_by_length",
    "e": "peft LoRA, dynamic padding",
    "f": "this recipe, no cache",
    "g": "this recipe, cache made",
    "h": "this recipe, cache found",
}


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


def epoch_batches(system: str, lengths: list[int]) -> list[list[int]]:
    """The lengths of the pairs in each batch of an epoch, as the system's own order makes them."""
    if system in "fgh":
        return list(TrainBatches(lambda: Lookup(lengths), int, Order(len(lengths), StepShape(BATCH), 10_000, 0)))
    order = list(range(len(lengths)))
    if system == "d":
        order = get_length_grouped_indices(lengths, BATCH, generator=torch.Generator().manual_seed(0))
    batches = [[lengths[i] for i in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
    return [batch for batch in batches if len(batch) == BATCH]


def at_quantiles(batches: list[list[int]], count: int) -> list[list[int]]:
    """`count` batches at even quantiles of their padded size."""
    ordered = sorted((batch for batch in batches if len(batch) == BATCH), key=lambda batch: (max(batch), sum(batch)))
    return [ordered[int((place + 0.5) / count * len(ordered))] for place in range(count)]


def examples(batches: list[list[int]], seed: int) -> list[dict[str, Any]]:
    """Tokenised pairs of those lengths, of random characters."""
    rng = random.Random(seed)
    rows = []
    for length in (length for batch in batches for length in batch):
        half = length // 2
        ids = [101, *(rng.randrange(670, 8000) for _ in range(length - 2)), 102]
        rows.append(
            {"input_ids": ids, "token_type_ids": [0] * half + [1] * (length - half), "labels": rng.randint(0, 1)}
        )
    return rows


def make_model(folder: Path, config: BertConfig) -> None:
    """A BERT of that shape, with random weights, and a tokenizer of the size of bert-base-chinese's."""
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    names = ["[PAD]", *(f"[unused{i}]" for i in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names += [chr(0x4E00 + i) for i in range(VOCABULARY - len(names))]
    BertTokenizer(vocab={name: i for i, name in enumerate(names)}, model_max_length=512).save_pretrained(folder)


class System:
    """A child process that takes steps when told to."""

    def __init__(self, letter: str, work: Path, model: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.systems", letter, str(work), str(model), str(folder)]
        self.log = Path(f"{work}.log").open("w")  # noqa: SIM115 - the child writes to it as long as it lives
        self.process = subprocess.Popen(
            command, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.hear()

    def hear(self) -> dict[str, Any]:
        """The child's next answer."""
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"a system stopped; see {self.log.name}:\n" + Path(self.log.name).read_text()[-2000:])
        return json.loads(line)

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.process.stdin.write(command + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.hear()


def measure(folder: Path, rounds: int, quantiles: int, letters: str) -> dict[str, dict[str, Any]]:
    """Seconds of a step and of an evaluated pair, peak memory, and the batches, of each system."""
    train_lengths, eval_lengths = lengths_of("train"), lengths_of("validation")
    results: dict[str, dict[str, Any]] = {}
    children: dict[str, System] = {}
    for letter in letters:
        batches = at_quantiles(epoch_batches(letter, train_lengths), 1 if letter == "a" else quantiles)
        order = sorted(eval_lengths) if letter in "fgh" else eval_lengths
        held = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        work = folder / f"{letter}.json"
        work.write_text(json.dumps({"train": examples(batches, 1), "eval": examples(at_quantiles(held, 2), 2)}))
        results[letter] = {"batches": [[max(batch), sum(batch)] for batch in batches], "steps": []}
        # g makes the cache that h then finds; the others have nothing to share
        started = time.perf_counter()
        children[letter] = System(letter, work, folder / "model", folder / ("gh" if letter in "gh" else letter))
        results[letter]["ready_seconds"] = time.perf_counter() - started
        children[letter].ask("step")  # warm up
        for _ in range(len(batches) - 1):
            if letter != "a":
                children[letter].ask("step")
        print(f"{letter}  {SYSTEMS[letter]}: ready", flush=True)
    for _ in range(rounds):
        for letter, child in children.items():
            count = len(results[letter]["batches"])
            results[letter]["steps"].append([child.ask("step")["seconds"] for _ in range(count)])
    for letter, child in children.items():
        times = [child.ask("eval")["seconds"] for _ in range(2)]
        results[letter]["eval_seconds_a_pair"] = min(times) / (2 * BATCH)
        results[letter] |= child.ask("memory")
        child.ask("stop")
        # each round is an epoch over the same batches, in an order of its own: means compare, single steps do not
        results[letter]["step_seconds"] = statistics.median(
            statistics.mean(steps) for steps in results[letter]["steps"]
        )
    return results


def main() -> None:
    """Measure, print the table, draw the chart, write results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="how often each system goes over its batches")
    parser.add_argument("--quantiles", type=int, default=2, help="batches taken of each system's epoch")
    parser.add_argument("--systems", default="abcdefgh", help="which systems, by letter")
    parser.add_argument("--output_dir", type=Path, default=HERE, help="where results.json and bench.png are written")
    args = parser.parse_args()
    from benchmarks.encoding import measure_ceiling, measure_encoding
    from benchmarks.report import ratios

    logging.disable_progress_bar()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        make_model(folder / "model", BertConfig(vocab_size=VOCABULARY))
        encoding = measure_encoding(folder / "model", lengths_of("train"))
        systems = measure(folder, args.rounds, args.quantiles, args.systems)
        ceiling = measure_ceiling(folder / "model", systems.get("h"))
    tokens = sum(lengths_of("train")) + sum(lengths_of("validation"))
    content = {
        "machine": {"device": "cuda" if torch.cuda.is_available() else "cpu", "threads": torch.get_num_threads()},
        "systems": systems,
        "encoding": encoding,
        "ceiling": ceiling,
        "ratios": ratios(systems, encoding, ceiling, tokens, len(lengths_of("train")), len(lengths_of("validation"))),
        "seconds": round(time.perf_counter() - started),
    }
    (args.output_dir / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    print_table(content, SYSTEMS)
    draw(content, SYSTEMS, args.output_dir / "bench.png")


if __name__ == "__main__":
    main()
