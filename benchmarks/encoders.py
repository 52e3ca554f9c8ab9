"""Other ways to run the frozen prefix, each beside float32 and today's bfloat16: python -m benchmarks.encoders FOLDER.

One thread, one process, batches of pairs of one length. The rivals take turns, each round beginning with another, and
each time is the median of the rounds. The clock is the processor's time of this process: on one thread of a quiet
machine it is the wall's, and on a busy one it does not count others' work. A rival whose package is missing, or which
fails, is a line that says so. The compiled ones compile for each shape.
"""

import argparse
import json
import os
import statistics
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from benchmarks.rivals import DEPTH, RIVALS, TODAY, Prefix, Run, in_half
from recipe.arguments import ModelArguments
from recipe.model.base_model import open_base
from recipe.model.loading import load_model
from recipe.model.modeling import BertForPairwiseCLS

SHAPES = ((17, 30), (68, 30))
SIZES = (128, 256, 384, 512, 768, 1024, 1536, 4096)  # tokens in a batch, of pairs of 32
TEXT = Path(__file__).parents[1] / "demo/data/train.json"


def embedded(model: BertForPairwiseCLS, folder: Path, pairs: int, tokens: int, skip: int = 0) -> Tensor:
    """What the embeddings give for pairs of one length, cut out of the demo's sentences."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "".join(json.loads(line)["sentence1"] for line in TEXT.read_text("utf-8").splitlines())
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    body = torch.tensor((ids * (1 + (skip + pairs) * tokens // len(ids)))[skip * tokens : (skip + pairs) * tokens])
    body, half = body.view(pairs, tokens), tokens // 2
    body[:, 0], body[:, half], body[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.sep_token_id
    types = (torch.arange(tokens) > half).long().expand(pairs, tokens)
    return model.bert.embeddings(input_ids=body, token_type_ids=types)


def _with_children() -> float:
    """Processor seconds of this process and of the compilers that it started."""
    return sum(os.times()[:4])


def _seconds(run: Run, states: Tensor) -> float:
    start = time.process_time()
    run(states)
    return time.process_time() - start


def in_turn(work: dict[Any, tuple[Run, Tensor]], rounds: int) -> dict[Any, list[float]]:
    """Seconds of each piece of work in each round, after one that does not count."""
    times: dict[Any, list[float]] = {key: [] for key in work}
    keys = list(work)
    for round_ in range(rounds + 1):
        first = round_ % len(keys)
        for key in keys[first:] + keys[:first]:
            seconds = _seconds(*work[key])
            if round_:
                times[key].append(seconds)
    return times


def build(
    prefix: Prefix, sample: Tensor, inputs: list[Tensor], names: list[str]
) -> tuple[dict[str, Run], dict[str, float]]:
    """The rivals that work, and the seconds that each took until it had run each shape once."""
    runs, seconds = {}, {}
    for name in names:
        start = _with_children()
        try:
            run = RIVALS[name](prefix, sample)
            for states in inputs:
                run(states)
        except ImportError as error:
            print(f"{name}: skipped, {error.name or error} is not installed", flush=True)
        except Exception as error:  # a rival's own failure is a result
            traceback.print_exc()
            print(f"{name}: failed, {type(error).__name__}", flush=True)
        else:
            runs[name], seconds[name] = run, _with_children() - start
            print(f"{name}: ready", flush=True)
    return runs, seconds


def rivals_table(model: BertForPairwiseCLS, prefix: Prefix, folder: Path, options: argparse.Namespace) -> None:
    """Print tokens a second, largest differences and seconds of building, as Markdown."""
    inputs = [embedded(model, folder, *shape) for shape in SHAPES]
    sample = embedded(model, folder, 64, 30, skip=68)
    names = [name for name in RIVALS if not options.only or name in {TODAY, *options.only}]
    runs, building = build(prefix, sample, inputs, names)
    work = {(name, shape): (run, states) for name, run in runs.items() for shape, states in enumerate(inputs)}
    times = in_turn(work, options.rounds)
    truth = prefix(inputs[1])
    logits = model(prefix_states=truth).logits
    spread = f"{truth.std():.2f} (the largest is {truth.abs().max():.1f})"
    print(f"\nstandard deviation of the states {spread}, of the logits {logits.std():.2f}\n")
    rates = " | ".join(f"{pairs} x {tokens}, tokens/s | against today's" for pairs, tokens in SHAPES)
    print(f"| | {rates} | states, largest (mean) | logits | s to build (processor's) |\n|{'---|' * 8}")
    for name, run in runs.items():
        cells = []
        for shape, (pairs, tokens) in enumerate(SHAPES):
            mine, theirs = times[name, shape], times[TODAY, shape]
            ratio = statistics.median(base / own for base, own in zip(theirs, mine, strict=True))
            cells += [f"{pairs * tokens / statistics.median(mine):,.0f}", f"{ratio:.2f}x"]
        states = run(inputs[1]).float()
        apart = (states - truth).abs()
        logit = (model(prefix_states=states).logits - logits).abs().max()
        differences = [f"{apart.max():.3f} ({apart.mean():.4f})", f"{logit:.4f}", f"{building[name]:.0f}"]
        print(f"| {' | '.join([name, *cells, *differences])} |")


def sizes_table(model: BertForPairwiseCLS, prefix: Prefix, folder: Path, rounds: int) -> None:
    """Print today's rate against the batch's tokens, as Markdown."""
    run = in_half(prefix)
    times = in_turn({size: (run, embedded(model, folder, size // 32, 32)) for size in SIZES}, rounds)
    rates = {size: size / statistics.median(times[size]) for size in SIZES}
    print(f"\n| tokens in a batch | tokens/s | of {SIZES[-1]:,}'s |\n|---|---|---|")
    for size, rate in rates.items():
        print(f"| {size:,} | {rate:,.0f} | {rate / rates[SIZES[-1]]:.1%} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a BERT-base's folder with config, weights and vocabulary")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="*", choices=list(RIVALS), help="some rivals beside today's")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load_model(open_base(ModelArguments(model_name_or_path=str(options.model)))).eval()
    model.prefix_depth = DEPTH
    prefix = Prefix(model).eval()
    with torch.no_grad():
        sizes_table(model, prefix, options.model, options.rounds)
        rivals_table(model, prefix, options.model, options)


if __name__ == "__main__":
    main()
