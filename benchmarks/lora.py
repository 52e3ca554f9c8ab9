#!/usr/bin/env python3
"""LoRA on AFQMC, with this recipe's batches, Trainer and choice of the best: a point for benchmarks.afqmc.

python -m benchmarks.lora FOLDER --model_name_or_path ... --data_dir ... --learning_rate 5e-4 --seed 42
python -m benchmarks.afqmc add "..." FOLDER --name "LoRA, rank 8:"

Takes run_freeze.py's flags. It keeps no checkpoints: one that is stopped begins anew.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.models.bert.modeling_bert import BertLayer

from recipe.command_line.parsing import parse
from recipe.commands.train import prepare
from recipe.evaluation.answers import Answers, answer_pairs
from recipe.evaluation.metrics import score
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.allocator import keep_freed_memory, peak_memory
from recipe.studies.points import PREDICTIONS, RESULTS, SCORES, evaluations_of, write_answers
from recipe.system.files import write_json
from recipe.training.feeding import build

RANK, TARGETS = 8, ["query", "value"]


class KeepBest(TrainerCallback):
    """Keeps what is trained as it was at the evaluation with the best accuracy."""

    def __init__(self, model: BertForPairwiseCLS) -> None:
        self.trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.best = -1.0
        self.kept: dict[str, Tensor] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Copy, where this evaluation is better than those before."""
        if metrics["eval_accuracy"] > self.best:
            self.best = metrics["eval_accuracy"]
            self.kept = {name: value.detach().clone() for name, value in self.trained.items()}

    def restore(self) -> None:
        """Put the best back."""
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(self.kept[name])


def inject(model: BertForPairwiseCLS) -> None:
    """Give each layer's queries and values an adapter of peft's; they and the classifier are trained."""
    from peft import LoraConfig, inject_adapter_in_model

    # this recipe's last layer reads the value's weight itself, and would pass the adapter by
    model.bert.encoder.layer[-1].__class__ = BertLayer
    inject_adapter_in_model(LoraConfig(r=RANK, target_modules=TARGETS), model)
    model.classifier.requires_grad_(True)
    model.eval()  # the next train() looks anew which modules are frozen


def train(folder: Path, words: Sequence[str]) -> None:
    """Train, and write sweep.json and predictions/ into `folder` as a sweep does."""
    keep_freed_memory()
    own = ["--freeze_layers=none", f"--output_dir={folder}/run", "--save_strategy=no", "--load_best_model_at_end=false"]
    arguments = parse([*words, *own])
    made = prepare(arguments)
    inject(made.model)
    trainer = build(arguments, made)
    best = KeepBest(made.model)
    trainer.add_callback(best)
    seconds = trainer.train().metrics["train_runtime"]
    best.restore()
    _write(folder, trainer, answer_pairs(trainer, trainer.eval_dataset), seconds)


def _write(folder: Path, trainer: Trainer, answers: Answers, seconds: float) -> None:
    rate, seed = f"{trainer.args.learning_rate:g}", trainer.args.seed
    setting, sizes = {"learning_rate": rate}, [value for value in trainer.model.parameters()]
    scores, name = score(answers.logits, answers.labels), f"{rate}-lora"
    point = {
        "key": name,
        "setting": setting,
        "seed": seed,
        "evaluations": evaluations_of(trainer.state.log_history),
        "trainable_parameters": sum(value.numel() for value in sizes if value.requires_grad),
        "parameters": sum(value.numel() for value in sizes),
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": peak_memory(),
        "encode_seconds": 0.0,
        "train_seconds": seconds,
        "total_seconds": seconds,
        **{part: scores[part] for part in SCORES},
        "accuracy": 100 * scores["accuracy"],
    }
    write_answers(answers, folder / PREDICTIONS / f"lora-{name[:8]}-seed-{seed}.npz")
    write_json(folder / RESULTS, {"majority": 100 * scores["majority_baseline"], "points": [point]})


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2:])
