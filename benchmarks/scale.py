#!/usr/bin/env python3
"""Does the cost grow with the work, and with nothing else? Rows against seconds and memory, and two ranks against one.

    make bench-scale

Rows: generated pairs with AFQMC's lengths, in shards, through a BERT so small that reading, ordering and batching are
what is measured; streamed without a cache, and from one. Ranks: BERT-base's shape on the same cores, taken in turn.
"""

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig
from transformers.utils import logging

from benchmarks.batches import HERE, VOCABULARY, lengths_of, make_model
from recipe.cache.encoding import equal_length_batches
from recipe.cache.key import BATCH_TOKENS

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SHARDS = 7
RANK_PAIRS = 1000


def write_pairs(folder: Path, rows: int, shards: int) -> None:
    """Random characters at AFQMC's lengths: train-*.jsonl, and 500 pairs to validate on."""
    folder.mkdir()
    lengths, rng = lengths_of("train"), random.Random(0)
    for name, count in [
        *((f"train-{n}", rows * (n + 1) // shards - rows * n // shards) for n in range(shards)),
        ("dev", 500),
    ]:
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for _ in range(count):
                half = max(1, (rng.choice(lengths) - 3) // 2)
                first, second = ("".join(chr(rng.randrange(0x4E00, 0x6E00)) for _ in range(half)) for _ in range(2))
                file.write(f'{{"sentence1": "{first}", "sentence2": "{second}", "label": "{rng.randrange(2)}"}}\n')


def watch(command: list[str], env: dict[str, str], log: Path) -> dict[str, int]:
    """Run a command to its end: the peaks of its resident memory and of the anonymous part of it, in bytes."""
    peaks = {"VmRSS": 0, "RssAnon": 0}
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=HERE.parent, env={**os.environ, **env}, stdout=output, stderr=output)
        while process.poll() is None:
            try:
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    name, _, value = line.partition(":")
                    if name in peaks:
                        peaks[name] = max(peaks[name], int(value.split()[0]) * 1024)
            except (OSError, IndexError):
                pass  # it has just ended
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return peaks


def run_rows(folder: Path, rows: int, cache: str) -> dict[str, Any]:
    """One run over `rows` pairs."""
    write_pairs(folder / "data", rows, SHARDS)
    command = [sys.executable, "run_freeze.py", f"--model_name_or_path={folder.parent / 'small'}", "--freeze_layers=0"]
    command += [
        f"--data_dir={folder / 'data'}",
        f"--output_dir={folder / 'run'}",
        f"--prefix_cache_dir={folder / 'cache'}",
    ]
    command += ["--use_cpu", f"--prefix_cache={cache}", "--per_device_train_batch_size=256", "--num_train_epochs=1"]
    peaks = watch([*command, "--model_card=false", "--logging_steps=500"], {}, folder / "log")
    report = json.loads((folder / "run" / "run.json").read_text())
    shutil.rmtree(folder)
    return {"rows": rows, "seconds": report["total_seconds"], "resident": peaks["VmRSS"], "anonymous": peaks["RssAnon"]}


def measure_rows(folder: Path, sizes: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Each size, streamed and from a cache."""
    logging.disable_progress_bar()
    make_model(folder / "small", BertConfig(vocab_size=VOCABULARY, **SMALL))
    points: dict[str, list[dict[str, Any]]] = {"streamed": [], "cached": []}
    for rows in sizes:
        for kind, cache in (("streamed", "off"), ("cached", "on")):
            (folder / "rows").mkdir()
            point = run_rows(folder / "rows", rows, cache)
            points[kind].append(point)
            micro, resident = 1e6 * point["seconds"] / rows, point["resident"] / 1e9
            print(
                f"{kind:<9}{rows:>10,} rows {point['seconds']:>7.0f} s, {micro:.0f} us a row, {resident:.2f} GB",
                flush=True,
            )
    return points


def run_ranks(folder: Path, ranks: int, threads: int) -> dict[str, float]:
    """One run of BERT-base's shape with a global batch of 32: seconds of encoding and of training."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={ranks}"]
    command = [*command, f"--main_process_port={port}"] if ranks > 1 else [sys.executable]
    command += [
        "run_freeze.py",
        f"--model_name_or_path={folder / 'base'}",
        f"--data_dir={folder / 'pairs'}",
        "--use_cpu",
    ]
    command += [f"--per_device_train_batch_size={32 // ranks}", "--prefix_cache=on", "--num_train_epochs=1"]
    command += [f"--output_dir={folder / 'run'}", f"--prefix_cache_dir={folder / 'cache'}", "--model_card=false"]
    watch([*command, "--eval_strategy=no", "--save_strategy=no"], {"OMP_NUM_THREADS": str(threads)}, folder / "log")
    report = json.loads((folder / "run" / "run.json").read_text())
    shutil.rmtree(folder / "run")
    shutil.rmtree(folder / "cache")
    return {"encode_seconds": report["encode_seconds"], "train_seconds": report["train_seconds"]}


def measure_ranks(folder: Path, rounds: int) -> dict[str, Any]:
    """One rank with two threads and two ranks with one, in turn; medians, and the tokens that each rank encodes."""
    make_model(folder / "base", BertConfig(vocab_size=VOCABULARY))
    write_pairs(folder / "pairs", RANK_PAIRS, 1)
    runs: dict[str, list[dict[str, float]]] = {"one": [], "two": []}
    for _ in range(rounds):
        runs["one"].append(run_ranks(folder, 1, 2))
        runs["two"].append(run_ranks(folder, 2, 1))
    lengths = torch.tensor(lengths_of("train"))
    batches = list(equal_length_batches(lengths, BATCH_TOKENS["cpu"]))
    shares = [sum(int(lengths[batch].sum()) for batch in batches[rank::2]) for rank in range(2)]
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]} for name, each in runs.items()
    }
    ratios = {key: medians["two"][key] / medians["one"][key] for key in medians["one"]}
    for key, ratio in ratios.items():
        print(f"{key:<15} one rank {medians['one'][key]:.1f} s, two {medians['two'][key]:.1f} s: {ratio:.2f}x")
    print(f"tokens of AFQMC's training split that each of two ranks encodes: {shares[0]:,} and {shares[1]:,}")
    return {"runs": runs, "medians": medians, "ratios": ratios, "shares": shares}


def draw(points: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Rows against seconds, and against memory."""
    os.environ["MPLBACKEND"] = "Agg"  # whatever a notebook has set
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for (kind, each), colour in zip(points.items(), ("#4c72b0", "#dd8452"), strict=True):
        rows = [point["rows"] / 1e6 for point in each]
        left.plot(rows, [point["seconds"] / 60 for point in each], "o-", color=colour, label=kind)
        right.plot(rows, [point["resident"] / 1e9 for point in each], "o-", color=colour, label=f"{kind}, resident")
        right.plot(rows, [point["anonymous"] / 1e9 for point in each], "o--", color=colour, label=f"{kind}, anonymous")
    left.set_ylabel("minutes, one epoch")
    right.set_ylabel("peak memory, GB")
    right.set_ylim(bottom=0)
    left.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("million pairs")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, draw, write scale.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[34_334, 500_000, 1_000_000, 2_000_000])
    parser.add_argument("--rounds", type=int, default=3, help="how often one rank and two are run; 0 for not at all")
    parser.add_argument("--output_dir", type=Path, default=HERE, help="where scale.json and scale.png are written")
    args = parser.parse_args()
    path = args.output_dir / "scale.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    with tempfile.TemporaryDirectory() as work:
        if args.rounds:
            content["ranks"] = measure_ranks(Path(work), args.rounds)
        if args.rows:
            content["rows"] = measure_rows(Path(work), args.rows)
            draw(content["rows"], args.output_dir / "scale.png")
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
