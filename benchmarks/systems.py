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

import datasets  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: E402

FROZEN = [f"bert.encoder.layer.{layer}." for layer in range(10)] + ["bert.embeddings."]


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


def stock(system: str, work: dict[str, Any], model_dir: str, folder: str) -> tuple[Trainer, OnCommand]:
    """The stock Trainer: a full, padded to 128; b full; c and d 0-9 frozen; e LoRA. Batches come in the given order."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    model = AutoModelForSequenceClassification.from_pretrained(model_dir)
    if system in "cd":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(FROZEN)))
    if system == "e":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"]))
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    padding: dict[str, Any] = {"padding": "max_length", "max_length": 128} if system == "a" else {}
    args = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        max_steps=100_000,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_steps=50,
        bf16=torch.cuda.is_available(),
        disable_tqdm=True,
    )
    callback = OnCommand()
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=datasets.Dataset.from_list(work["train"]),
        eval_dataset=datasets.Dataset.from_list(work["eval"]),
        data_collator=DataCollatorWithPadding(tokenizer, **padding),
        callbacks=[callback],
    )
    callback.trainer = trainer
    return trainer, callback


def recipe(system: str, work: dict[str, Any], model_dir: str, folder: str) -> tuple[Trainer, OnCommand]:
    """This recipe: f without the cache, g making it, h finding it."""
    from recipe.command_line.parsing import parse
    from recipe.data.splits import Split
    from recipe.model.base_model import open_base
    from recipe.model.freezing import freeze
    from recipe.model.loading import load_model
    from recipe.model.tokenizer import load_tokenizer
    from recipe.training.feeding import Prepared, build

    arguments = parse(
        [
            *(f"--model_name_or_path={model_dir}", "--freeze_layers=0-9", f"--output_dir={folder}"),
            *("--max_steps=100000", "--num_train_epochs=1000", "--save_strategy=no", "--eval_strategy=no"),
            *("--load_best_model_at_end=false", f"--prefix_cache={'off' if system == 'f' else 'on'}"),
            *(
                f"--prefix_cache_dir={folder}/cache",
                f"--bf16={torch.cuda.is_available()}",
                "--per_device_eval_batch_size=32",
            ),
        ]
    )
    base = open_base(arguments.model)
    model = load_model(base)
    freeze(model, arguments.freeze)
    tokenizer = load_tokenizer(base)
    splits = [
        Split(name, name, None, len(work[name]), ["0", "1"], "", examples=datasets.Dataset.from_list(work[name]))
        for name in ("train", "eval")
    ]
    trainer = build(arguments, Prepared(model, tokenizer, splits, identity={}))
    callback = OnCommand()
    callback.trainer = trainer
    trainer.add_callback(callback)
    return trainer, callback


def main() -> None:
    """Build the system that the command line names and hand it to its Trainer."""
    system, work_file, model_dir, folder = sys.argv[1:]
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    work = json.loads(Path(work_file).read_text())
    make = recipe if system in "fgh" else stock
    trainer, _ = make(system, work, model_dir, folder)
    answer(ready=True)
    trainer.train()


if __name__ == "__main__":
    main()
