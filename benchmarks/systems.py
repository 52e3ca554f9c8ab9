"""One system of the benchmark, in a process of its own: trains on the batches it is given, a step when it is told to.

Reads commands from standard input, a line each, and answers each with one line of JSON:
`step` (seconds of one optimizer step, from data to logging), `eval` (seconds of evaluating on the eval batches),
`memory` (peak anonymous and GPU memory since training began, in bytes), `stop`.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever libraries print goes to standard error

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import Trainer, TrainerCallback  # noqa: E402

from benchmarks.rows import ROWS  # noqa: E402
from benchmarks.trainers import BUILD  # noqa: E402


def answer(**content: Any) -> None:
    """One line to the parent."""
    ANSWERS.write(json.dumps(content) + "\n")
    ANSWERS.flush()


class AnonymousMemory(threading.Thread):
    """The peak of RssAnon, looked at every 20 ms: mapped files do not count."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            with open("/proc/self/status") as status:
                line = next(line for line in status if line.startswith("RssAnon"))
            self.peak = max(self.peak, int(line.split()[1]) * 1024)
            time.sleep(0.02)


class OnCommand(TrainerCallback):
    """Lets the Trainer take a step when the parent asks for one."""

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self.started: float | None = None
        self.memory = AnonymousMemory()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the first command."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.memory.start()
        self._obey(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell how long the step took, and wait for the next command."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        answer(seconds=time.perf_counter() - self.started)
        self._obey(control)

    def _obey(self, control: Any) -> None:
        for line in sys.stdin:
            command = line.strip()
            if command == "step":
                self.started = time.perf_counter()
                return
            if command == "eval":
                start = time.perf_counter()
                self.trainer.evaluate()
                answer(seconds=time.perf_counter() - start)
            elif command == "memory":
                gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
                answer(anonymous=self.memory.peak, gpu=gpu)
            elif command == "stop":
                answer()
                os._exit(0)
        os._exit(1)  # the parent has gone


def main() -> None:
    """Build the system that the command line names and hand it to its Trainer."""
    key, work_file, model_dir, folder = sys.argv[1:]
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    work = json.loads(Path(work_file).read_text())
    callback = OnCommand()
    trainer = callback.trainer = BUILD[ROWS[key].method.trainer](ROWS[key], work, model_dir, folder, callback)
    answer(ready=True)
    trainer.train()


if __name__ == "__main__":
    main()
