"""Kills a run at every operation on a file that it makes, and looks whether the same command carries on.

    python -m tests.kill_points [EVERY [AGAIN]]

One process imports everything and forks a child for each run, so that a kill costs a second. In the child an audit
hook counts what Python does to files under the run's and the cache's folder, and torch.save and save_file, which the
hook does not see, are counted around; at the n-th the child is killed, and behind a save its file is cut in half too.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.utils import outcome

MODES = frozenset(
    {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate", "fcntl.flock"}
)


class Counter:
    """Counts file operations under `folder` and dies at the `at`-th."""

    def __init__(self, folder, at):
        self.folder, self.at, self.count = str(folder), at, 0

    def hook(self, event, args):
        if event not in MODES or not args:
            return
        if event == "open" and not self._writes(args):
            return
        if event == "fcntl.flock" or str(args[0]).startswith(self.folder):
            self.hit()

    def _writes(self, args):
        return (isinstance(args[1], str) and args[1][0] in "wax") or (isinstance(args[2], int) and args[2] & os.O_CREAT)

    def hit(self):
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function, place):
        """`function` that writes the file which is its argument number `place`."""

        def counted(*args, **kwargs):
            self.hit()
            result = function(*args, **kwargs)
            self.count += 1
            if self.count == self.at:
                os.truncate(args[place], os.path.getsize(args[place]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted


def run_child(work, folder, at):
    """Run `work` in a fork; its status as os.waitpid gives it, and the operations it made."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as told:
            text = told.read()
        return os.waitpid(child, 0)[1], int(text or 0)
    try:
        import safetensors.torch
        import torch
        import transformers.modeling_utils

        import recipe.model.weights

        counter = Counter(folder, at)
        torch.save = counter.around(torch.save, 1)
        for module in (safetensors.torch, recipe.model.weights, transformers.modeling_utils):
            for name in ("save_file", "safe_save_file"):
                if hasattr(module, name):
                    setattr(module, name, counter.around(getattr(module, name), 1))
        sys.addaudithook(counter.hook)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        work()
        os.write(writer, str(counter.count).encode())
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)


def recipe_run(words):
    """The recipe's run of a command line."""
    from recipe.command_line.parsing import parse
    from recipe.commands.train import train

    train(parse(words))


def stock_run(model, folder, resume):
    """The stock Trainer's run of the same shape, as its examples write it."""
    import torch
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    pairs = [{"input_ids": torch.arange(4, 12), "labels": torch.tensor(number % 2)} for number in range(40)]
    args = TrainingArguments(
        str(folder / "run"), num_train_epochs=2, save_steps=3, use_cpu=True, disable_tqdm=True, report_to="none"
    )
    trainer = Trainer(AutoModelForSequenceClassification.from_pretrained(model), args, train_dataset=pairs)
    trainer.train(resume_from_checkpoint=resume)


def stock_matrix(folder):
    """Kill a stock run from its second save's first file operation on, up to the next save: (kills, runs resumed).

    One can be resumed: that which is killed when the save is over.
    """
    model = folder / "model"

    def work(resume=None):
        if resume is None:
            shutil.rmtree(folder / "stock", ignore_errors=True)
        stock_run(model, folder / "stock", resume)

    points = resumed = 0
    for at in range(1, 99):
        status, _ = run_child(work, folder / "stock", at)
        made = sorted(path.name for path in (folder / "stock" / "run").glob("checkpoint-*"))
        if not os.WIFSIGNALED(status) or len(made) > 2:
            break
        if len(made) == 2:
            points += 1
            resumed += run_child(lambda: work(resume=True), folder / "stock", 0)[0] == 0
    return points, resumed


def kill_matrix(words, folder, every=1, again=0):
    """Kill a run at every `every`-th file operation: (operations, kills, what went wrong, a line each).

    The run that goes on is killed as well, `again` times, each at an operation at random.
    """
    rng = random.Random(0)

    def command(name):
        shutil.rmtree(folder / name, ignore_errors=True)
        return [*words, f"--output_dir={folder / name / 'run'}", f"--prefix_cache_dir={folder / name / 'cache'}"]

    reference = command("whole")
    status, count = run_child(lambda: recipe_run(reference), folder / "whole", 0)
    assert status == 0, "the uninterrupted run failed"
    expected = outcome(folder / "whole")
    wrong, kills = [], range(rng.randrange(every) + 1, count + 1, every)
    for at in kills:
        killed = command("killed")
        status, _ = run_child(lambda: recipe_run(killed), folder / "killed", at)  # noqa: B023 (run at once)
        if not os.WIFSIGNALED(status):
            wrong.append(f"kill {at} of {count}: the run was not killed")
            continue
        for _ in range(again):  # and inside the resume, which may get through before
            run_child(lambda: recipe_run(killed), folder / "killed", rng.randint(1, count // 2))  # noqa: B023
        status, _ = run_child(lambda: recipe_run(killed), folder / "killed", 0)  # noqa: B023
        if status != 0:
            wrong.append(f"kill {at} of {count}: the next run failed")
        elif outcome(folder / "killed") != expected:
            weights, files = outcome(folder / "killed")
            what = f"other files: {set(files) ^ set(expected[1])}" if weights == expected[0] else "other weights"
            wrong.append(f"kill {at} of {count}: the next run ended with {what}")
        left = [path.name for path in (folder / "killed" / "cache").iterdir() if "." in path.name]
        if left:
            wrong.append(f"kill {at} of {count}: left in the cache: {left}")
    return count, len(kills), wrong


def tiny_words(folder):
    """A small run with two checkpoints kept of four, on a tiny model and data made in `folder`."""
    from tests.utils import make_pairs, make_tiny_model, write_jsonl

    make_tiny_model(folder / "model")
    (folder / "data").mkdir()
    write_jsonl(folder / "data" / "train.json", make_pairs(40, 1))
    write_jsonl(folder / "data" / "dev.json", make_pairs(16, 2))
    given = {"model_name_or_path": folder / "model", "data_dir": folder / "data", "freeze_layers": "0-1"}
    given |= {"max_length": 32, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3}
    given |= {"eval_strategy": "steps", "eval_steps": 3, "per_device_train_batch_size": 8, "use_cpu": "true"}
    given |= {"prefix_compute_dtype": "float32", "disable_tqdm": "true", "model_card": "false"}
    return [f"--{name}={value}" for name, value in given.items()]


def main(every, again=0):
    """The matrix on a tiny run, and at every operation the stock Trainer's beside it; prints one line of JSON."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        count, kills, wrong = kill_matrix(tiny_words(Path(folder)), Path(folder), every, again)
        told = {"operations": count, "kills": kills, "wrong": wrong}
        if every == 1 and not again:
            told["stock_kills"], told["stock_resumed"] = stock_matrix(Path(folder))
    print(json.dumps(told))


if __name__ == "__main__":
    import datasets  # noqa: F401  (imported once, before the forks)
    import transformers  # noqa: F401

    import recipe.commands.train  # noqa: F401

    main(*map(int, sys.argv[1:] or [1]))
