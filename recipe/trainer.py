"""FreezeTrainer: the Trainer with this recipe's batches, loss, checkpoints and stop at a loss that is no number."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from recipe.arguments import FreezeTrainingArguments, RunError
from recipe.batching import TrainBatches
from recipe.checkpointing import load_trainable, save_trainable
from recipe.metrics import compute_metrics
from recipe.modeling import BertForPairwiseCLS
from recipe.progress import EpochLines
from recipe.tokens import SortedPairs, collate


class FreezeTrainer(Trainer):
    """A Trainer whose batches come in this recipe's order, and whose checkpoints hold what training changes."""

    def get_train_dataloader(self) -> DataLoader:
        """The training micro-batches of this rank, not sharded by accelerate: they are this rank's own already."""
        return DataLoader(
            self.train_dataset,
            batch_size=None,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def num_examples(self, dataloader: DataLoader) -> int:
        """Examples of an epoch; the length of a training loader is that of its micro-batches."""
        data = dataloader.dataset
        return data.count if isinstance(data, TrainBatches) else super().num_examples(dataloader)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: the Trainer's formula counts frozen and parked layers as trained ones, and walks them all at each step."""
        return 0

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass.

        Raises:
            RunError: the loss is not finite. The optimizer has not stepped, so the weights are still good.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not math.isfinite(loss.item()):
            rate = self._get_learning_rate()
            raise RunError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1} (learning rate {rate:.3g}); stopped "
                "before the weights changed. A smaller --learning_rate or --max_grad_norm is the usual way out"
            )
        return loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            save_trainable(self.accelerator.unwrap_model(self.model), Path(output_dir or self.args.output_dir))

    def _load_best_model(self) -> None:
        load_trainable(self.model, Path(self.state.best_model_checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trainable(model or self.model, Path(resume_from_checkpoint))


class EpochOrder(TrainerCallback):
    """Tells the batches which epoch begins; the Trainer's own way to them is lost when a resume skips batches."""

    def __init__(self, batches: TrainBatches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """`state.epoch` is a whole number here, or the place in the epoch that a resume goes on with."""
        self.batches.set_epoch(int(state.epoch or 0))


def mean_loss(label_smoothing: float) -> Callable[..., Tensor]:
    """The Trainer's compute_loss_func: cross-entropy summed over a micro-batch, over the examples of the whole step.

    A mean of each micro-batch would weigh a short last one too much; and whether the Trainer divides by the
    accumulation steps is guessed from the model's signature (transformers#47688).
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The micro-batch's share of the step's mean."""
        logits = outputs["logits"].float()
        total = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    return loss


def build_trainer(
    args: FreezeTrainingArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: TrainBatches | None = None,
    eval_dataset: SortedPairs | None = None,
) -> FreezeTrainer:
    """A FreezeTrainer with this recipe's loss, collator, metrics and progress lines."""
    trainer = FreezeTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        data_collator=partial(collate, pad_token_id=tokenizer.pad_token_id),
        compute_metrics=compute_metrics,
        compute_loss_func=mean_loss(args.label_smoothing_factor),
    )
    trainer.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
    trainer.add_callback(EpochLines())
    if train_dataset is not None:
        trainer.add_callback(EpochOrder(train_dataset))
    return trainer
