#!/usr/bin/env python3
"""The recipe beside its peers: each system in a process of its own, on the same work, taking steps in turn.

    make bench

All are BERT-base in shape, with random weights; the batches have AFQMC's lengths (lengths.json). Of each system's epoch
a few batches are taken, at even quantiles of their padded size, so that their mean is the epoch's. Ratios are of means
over those batches, each the median over rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig
from transformers.utils import logging

from benchmarks.batches import (
    HERE,
    VOCABULARY,
    at_quantiles,
    epoch_batches,
    eval_batches,
    examples,
    lengths_of,
    make_model,
)
from benchmarks.chart import draw
from benchmarks.encoding import EncodingRates, MatrixRates, measure_ceiling
from benchmarks.report import compare, print_table
from benchmarks.rows import BATCH, ROWS, default_keys
from recipe.system.arithmetic import multiplies_in_bfloat16

EVAL_BATCHES = 2
# what takes long has one turn, what takes no time several passes in each of its turns
SLOW_SECONDS, WORTH_SECONDS, MOST_PASSES = 6.0, 2.0, 4
# A turn's first step finds the caches full of another system's weights, which costs BERT-base some 0.1 s: as much as a
# whole step from the prefix cache. A pass shorter than this is taken once before its turn's time counts.
COLD_SECONDS = 8.0
STAYING = "cdgh"


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


class Measured:
    """A system that is being measured: its process, and what it has answered."""

    def __init__(self, key: str, folder: Path, quantiles: int) -> None:
        train = at_quantiles(epoch_batches(key, lengths_of("train")), 1 if ROWS[key].method.padded else quantiles)
        held = at_quantiles(eval_batches(key, lengths_of("validation")), EVAL_BATCHES)
        work = folder / f"{key}.json"
        work.write_text(json.dumps({"train": examples(train, 1), "eval": examples(held, 2)}))
        self.result: dict[str, Any] = {"batches": [[max(batch), sum(batch)] for batch in train], "steps": []}
        # g makes the cache that h then finds; the others have nothing to share
        shared = folder / (f"gh{key[1:]}" if key[0] in "gh" else key)
        self.child = System(key, work, folder / f"model-{ROWS[key].method.layers}", shared)
        seconds = [self.child.ask("step")["seconds"] for _ in train][-1]  # warm up
        self.slow, a_pass = seconds > SLOW_SECONDS, seconds * len(train)
        self.first = int(a_pass < COLD_SECONDS)
        self.passes = min(MOST_PASSES, max(1, int(WORTH_SECONDS / a_pass)))
        print(f"{key:<4}{ROWS[key].name}: ready", flush=True)

    def turn(self, passes: int) -> None:
        """So many passes over its batches, a step at a time."""
        taken = [
            [self.child.ask("step")["seconds"] for _ in self.result["batches"]] for _ in range(self.first + passes)
        ]
        self.result["steps"] += taken[self.first :]

    def finish(self) -> dict[str, Any]:
        """Ask for the rest, and end its process."""
        times = [self.child.ask("eval")["seconds"] for _ in range(2)]
        self.result["eval_seconds_a_pair"] = min(times) / (EVAL_BATCHES * BATCH)
        self.result |= self.child.ask("memory")
        self.child.ask("stop")
        # each pass is an epoch over the same batches, in an order of its own: means compare, single steps do not
        self.result["step_seconds"] = statistics.median(statistics.mean(steps) for steps in self.result["steps"])
        return self.result


def measure(folder: Path, keys: list[str], rounds: int, quantiles: int) -> dict[str, Any]:
    """Seconds of a step and of an evaluated pair, peak memory, and the batches, of each system; the machine's rates.

    What the targets compare most closely stays and takes turns through the whole run. The others come one after
    another, since all at once would take 26 GB, and take their turns with the cached rows of the best type.
    """
    encoding, matrices = EncodingRates(folder / "model-12", lengths_of("train"), max(rounds, 3)), MatrixRates()
    staying = {key: Measured(key, folder, quantiles) for key in keys if key[0] in STAYING}
    guests = [key for key in keys if key not in staying]
    cached = [key for key in ("g16", "h16") if key in staying] or [key for key in "gh" if key in staying]
    results = {}
    for place in range(max(rounds, 3)):
        if place < rounds:
            for system in staying.values():
                system.turn(system.passes)
            for key in guests[place::rounds]:
                guest = Measured(key, folder, quantiles)
                for _ in range(1 if guest.slow else rounds):
                    guest.turn(guest.passes)
                    for beside in cached:
                        staying[beside].turn(1)
                results[key] = guest.finish()
        matrices.take()
        encoding.take(place)
    results |= {key: system.finish() for key, system in staying.items()}
    found = {ROWS[key].type: results[key] for key in ("h", "h16") if key in results}
    ceiling = measure_ceiling(folder / "model-12", matrices.result(), found)
    return {"systems": {key: results[key] for key in keys}, "encoding": encoding.result(), "ceiling": ceiling}


def main() -> None:
    """Measure, print the table, draw the chart, write results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each system has its turn")
    parser.add_argument("--quantiles", type=int, default=2, help="batches taken of each system's epoch")
    parser.add_argument("--systems", nargs="+", choices=ROWS, help="which: a letter in float32, a16 in bfloat16")
    parser.add_argument("--tiny", action="store_true", help="hidden size 32: only to see that everything runs")
    parser.add_argument("--output_dir", type=Path, default=HERE, help="where results.json and bench.png are written")
    args = parser.parse_args()
    logging.disable_progress_bar()
    started = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keys = args.systems or default_keys(multiplies_in_bfloat16(device))
    shape = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64} if args.tiny else {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for layers in {12} | {ROWS[key].method.layers for key in keys}:
            make_model(folder / f"model-{layers}", BertConfig(vocab_size=VOCABULARY, num_hidden_layers=layers, **shape))
        content = measure(folder, sorted(keys, key=list(ROWS).index), args.rounds, args.quantiles)
    content = {"machine": {"device": device, "threads": torch.get_num_threads()}, **content}
    content |= compare(content, lengths_of("train"), lengths_of("validation"))
    content["seconds"] = round(time.perf_counter() - started)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    print_table(content)
    draw(content, args.output_dir / "bench.png")


if __name__ == "__main__":
    main()
