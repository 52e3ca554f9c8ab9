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
SLOW_SECONDS, WORTH_SECONDS, MOST_PASSES = 12.0, 2.0, 4


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

    def __init__(self, key: str, folder: Path, rounds: int, quantiles: int) -> None:
        train = at_quantiles(epoch_batches(key, lengths_of("train")), 1 if ROWS[key].method.padded else quantiles)
        held = at_quantiles(eval_batches(key, lengths_of("validation")), EVAL_BATCHES)
        work = folder / f"{key}.json"
        work.write_text(json.dumps({"train": examples(train, 1), "eval": examples(held, 2)}))
        self.result: dict[str, Any] = {"batches": [[max(batch), sum(batch)] for batch in train], "steps": []}
        # g makes the cache that h then finds; the others have nothing to share
        shared = folder / (f"gh{key[1:]}" if key[0] in "gh" else key)
        self.child = System(key, work, folder / f"model-{ROWS[key].method.layers}", shared)
        seconds = [self.child.ask("step")["seconds"] for _ in train][-1]  # warm up
        # what takes long is measured once, what takes no time several times in each of its turns
        self.rounds = 1 if seconds > SLOW_SECONDS else rounds
        self.passes = min(MOST_PASSES, max(1, int(WORTH_SECONDS / (seconds * len(train)))))

    def turn(self) -> None:
        """Its turn in a round: one or several passes over its batches; after its last one it is asked for the rest."""
        for _ in range(self.passes):
            self.result["steps"].append([self.child.ask("step")["seconds"] for _ in self.result["batches"]])
        self.rounds -= 1
        if self.rounds == 0:
            self._finish()

    def _finish(self) -> None:
        times = [self.child.ask("eval")["seconds"] for _ in range(2)]
        self.result["eval_seconds_a_pair"] = min(times) / (EVAL_BATCHES * BATCH)
        self.result |= self.child.ask("memory")
        self.child.ask("stop")
        # each pass is an epoch over the same batches, in an order of its own: means compare, single steps do not
        self.result["step_seconds"] = statistics.median(statistics.mean(steps) for steps in self.result["steps"])


def measure(folder: Path, keys: list[str], rounds: int, quantiles: int) -> dict[str, Any]:
    """Seconds of a step and of an evaluated pair, peak memory, and the batches, of each system; the machine's rates."""
    encoding, matrices = EncodingRates(folder / "model-12", lengths_of("train"), max(rounds, 3)), MatrixRates()
    systems: dict[str, Measured] = {}
    for key in keys:
        systems[key] = Measured(key, folder, rounds, quantiles)
        print(f"{key:<4}{ROWS[key].name}: ready", flush=True)
    for place in range(max(rounds, 3)):
        for system in systems.values():
            if system.rounds:
                system.turn()
        matrices.take()
        encoding.take(place)
    results = {key: system.result for key, system in systems.items()}
    found = {ROWS[key].type: results[key] for key in ("h", "h16") if key in results}
    ceiling = measure_ceiling(folder / "model-12", matrices.result(), found)
    return {"systems": results, "encoding": encoding.result(), "ceiling": ceiling}


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
        content = measure(folder, keys, args.rounds, args.quantiles)
    content = {"machine": {"device": device, "threads": torch.get_num_threads()}, **content}
    content |= compare(content, lengths_of("train"), lengths_of("validation"))
    content["seconds"] = round(time.perf_counter() - started)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    print_table(content)
    draw(content, args.output_dir / "bench.png")


if __name__ == "__main__":
    main()
