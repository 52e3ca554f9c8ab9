"""The Trainer's arguments with this recipe's defaults and flags."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from recipe.internals import use_one_gpu
from recipe.process.text import without_places
from recipe.system.arithmetic import multiplies_in_bfloat16
from recipe.system.distributed import meeting


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A dataclass field with its help."""
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class FreezeTrainingArguments(TrainingArguments):
    """The Trainer's arguments with this recipe's defaults."""

    output_dir: str | None = option(
        "outputs/freeze", "Where the best model, its results and the checkpoints are written."
    )
    per_device_train_batch_size: int = option(32, "Examples a device takes in one forward pass of training.")
    per_device_eval_batch_size: int = option(64, "Examples a device takes in one forward pass of evaluation.")
    learning_rate: float = option(1e-4, "AdamW's initial learning rate, which falls linearly to 0.")
    resume: str = option(
        "auto",
        "'auto': go on from the newest good checkpoint in --output_dir. 'never': start over and remove the checkpoints "
        "there. A checkpoint-N folder: go on from it.",
    )
    early_stopping_patience: int | None = option(
        None, "Stop after so many evaluations without a better --metric_for_best_model."
    )
    class_weights: str | None = option(
        None,
        "How much a pair counts in the training loss, by its label: a number for each label, separated by commas, or "
        "'balanced': so that each label counts as much as any other. Evaluation losses are not weighted.",
    )
    compile_tail: str = option(
        "off",
        "Train what is above the frozen prefix as compiled graphs.",
        choices=["on", "off"],
    )
    model_card: bool = option(True, "Write README.md, a model card with figures, beside the model.")
    eval_strategy: str = option("epoch", "When to evaluate.", choices=["no", "steps", "epoch"])
    save_strategy: str = option("epoch", "When to save a checkpoint.", choices=["no", "steps", "epoch", "best"])
    eval_steps: float | None = option(
        None,
        "Steps between two evaluations, or a share of all steps below 1; implies --eval_strategy steps. Default with "
        "it: --save_steps where that is given and saves count steps too, else --logging_steps.",
    )
    save_steps: float = option(
        500,
        "Steps between two checkpoints, or a share of all steps below 1; implies --save_strategy steps. Default with "
        "it: --eval_steps where evaluations count steps too, else 500.",
    )
    push_to_hub: bool = option(False, "Push what the run leaves, but no checkpoints, to the Hub once it has finished.")
    hub_strategy: HubStrategy | str = option(
        "every_save", "'end' and 'every_save' do the same: nothing is pushed before the end. The others are refused."
    )
    save_total_limit: int | None = option(2, "How many checkpoints to keep, the best one included.")
    load_best_model_at_end: bool = option(True, "End with the best checkpoint's weights, not the last one's.")
    metric_for_best_model: str | None = option(
        "accuracy",
        "What makes a checkpoint the best: accuracy, loss, f1, mcc, roc_auc, average_precision or ece; with "
        "--task_type regression pearson, which is the default then, spearman, mse, mae or loss.",
    )
    greater_is_better: bool | None = option(None, "Whether more of --metric_for_best_model is better, which it says.")
    report_to: list[str] | None = field(
        default_factory=lambda: ["none"], metadata={"help": "Where losses and scores are logged: tensorboard, ..."}
    )
    logging_steps: float = option(50, "Steps between two logs of loss, gradient norm and learning rate.")
    logging_nan_inf_filter: bool = option(False, "Log a non-finite loss as 0; off, since this recipe stops at one.")
    ddp_find_unused_parameters: bool | None = option(
        False, "Let DDP look for parameters without gradient; there are none."
    )
    ddp_bucket_cap_mb: int | None = option(
        None, "Gradients that ranks exchange at once, in MB. Default: all of them on a CPU, else torch's 25."
    )
    bf16: bool | None = option(
        None,
        "Compute what is trained in bfloat16, over float32 weights, in training and evaluation. Default: where the "
        "processor or GPU multiplies in it.",
    )
    # What the recipe decides itself is no flag: its own order and batches, and labels under the key that the model has.
    remove_unused_columns: bool = field(default=False, init=False)
    train_sampling_strategy: str = field(default="random", init=False)
    resume_from_checkpoint: str | None = field(default=None, init=False)
    ignore_data_skip: bool = field(default=False, init=False)
    save_only_model: bool = field(default=False, init=False)
    restore_callback_states_from_checkpoint: bool = field(default=True, init=False)
    dataloader_drop_last: bool = field(default=False, init=False)
    label_names: list[str] | None = field(default=None, init=False)
    parallelism_config: Any = field(default=None, init=False)

    scores: bool = field(default=False, init=False)  # --do_eval; the Trainer sets do_eval wherever it evaluates

    def __post_init__(self) -> None:
        self.scores = self.do_eval
        if not self.trains:  # no epochs, so nothing to evaluate or save between them
            self.eval_strategy = self.save_strategy = "no"
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
        if not torch.accelerator.is_available():  # else --bf16 is refused there, and ranks would look for NCCL
            self.use_cpu = True
        if self.bf16 is None:  # unless accelerate or --fp16 has decided
            chosen = self.fp16 or os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower() != "no"
            self.bf16 = not chosen and multiplies_in_bfloat16(self._kind_of_device())
        # where the device has the host's memory pinning does nothing but warn, once for each data loader, and on a CPU
        # what exchanges gradients while backward goes on takes its cores away: one bucket, exchanged after it
        if self._kind_of_device() in ("cpu", "mps"):
            self.dataloader_pin_memory = False
            self.ddp_bucket_cap_mb = self.ddp_bucket_cap_mb or 10_000
        with meeting():
            super().__post_init__()
        # several GPUs without a launcher would become nn.DataParallel, which multiplies the loss by their number and
        # hands a cached batch's indices to the wrong rows
        use_one_gpu(self)

    def to_json_string(self) -> str:
        """What TensorBoard keeps, in files that are pushed: without this machine's folders."""
        return json.dumps(without_places(self.to_dict()), indent=2)

    def _kind_of_device(self) -> str:
        """What training will run on, asked before the Trainer sets it up."""
        accelerator = None if self.use_cpu else torch.accelerator.current_accelerator()
        return accelerator.type if accelerator is not None else "cpu"

    @property
    def trains(self) -> bool:
        """Whether training is asked for, as it is unless --do_eval or --do_predict stands alone."""
        return self.do_train or not (self.scores or self.do_predict)

    @property
    def folder(self) -> Path:
        """output_dir as a path; the working directory where it was given empty."""
        return Path(self.output_dir or ".")

    @property
    def same_command(self) -> str:
        """What goes on from the newest checkpoint, in words: another --resume would start over, or further back."""
        return "the same command" + f" without --resume {self.resume}" * (self.resume != "auto")

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps of an epoch over so many rows."""
        return math.ceil(rows / (self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size))

    def total_steps(self, rows: int) -> int:
        """Optimizer steps of the whole run over so many rows."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.num_train_epochs * self.steps_per_epoch(rows))

    def passes(self, rows: int) -> float:
        """How many times a run reads so many rows; --max_steps decides where it is given."""
        return self.max_steps / self.steps_per_epoch(rows) if self.max_steps > 0 else self.num_train_epochs
