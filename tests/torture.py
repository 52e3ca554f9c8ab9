"""Kills the real command at random times, again and again, and looks where it ends: make torture KILLS=200.

A round starts the command anew in a folder of its own and kills it after a random time, until it gets through; then its
model and its last checkpoint's weights must be the uninterrupted run's, byte for byte. Each kill passes or fails with
its round. The last line is the tally.
"""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.utils import ROOT, outcome

WORDS = [
    *("configs/demo.yaml", "--max_train_samples=1600", "--max_eval_samples=200", "--num_train_epochs=2"),
    *("--save_strategy=steps", "--save_steps=5", "--eval_strategy=steps", "--eval_steps=5", "--disable_tqdm=true"),
]


def start(folder, more):
    flags = [f"--output_dir={folder / 'run'}", f"--prefix_cache_dir={folder / 'cache'}", *more]
    command = [sys.executable, "run_freeze.py", *WORDS, *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def one_round(folder, more, expected, rng, seconds, most):
    """Kill until the command gets through or `most` kills are spent: (kills, what went wrong or an empty string)."""
    shutil.rmtree(folder, ignore_errors=True)
    kills = 0
    while True:
        process = start(folder, more)
        if kills < most:
            try:
                process.wait(rng.uniform(0.3, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
        output, _ = process.communicate()
        if process.returncode == -signal.SIGKILL:
            continue
        if process.returncode != 0:
            return kills, f"status {process.returncode}: {output[-300:]}"
        return kills, "" if outcome(folder)[0] == expected else "another model than the uninterrupted run's"


def main(wanted, *more):
    """Kill `wanted` times, with `more` flags than WORDS; the status is 1 where anything failed."""
    rng, passed, failed = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        start(folder / "whole", more).communicate()
        seconds = time.perf_counter() - began
        expected = outcome(folder / "whole")[0]
        print(f"uninterrupted: {seconds:.0f} s, sha256 {expected[:16]}", flush=True)
        while passed + failed < wanted:
            kills, wrong = one_round(folder / "killed", more, expected, rng, seconds, wanted - passed - failed)
            passed, failed = (passed, failed + kills) if wrong else (passed + kills, failed)
            print(f"{kills} kills in a round: {wrong or 'the same model'}; {passed + failed} of {wanted}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
