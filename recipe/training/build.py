"""A FreezeTrainer put together: this recipe's loss, collator, metrics and progress lines."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from recipe.arguments import FreezeTrainingArguments
from recipe.batches.order import IGNORED_LABEL, TrainBatches
from recipe.batches.tokens import SortedPairs
from recipe.cache.collator import collate
from recipe.evaluation.metrics import compute_metrics
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.failures import as_refusal
from recipe.system.distributed import check_sharding
from recipe.training.callbacks import EpochLines, EpochOrder
from recipe.training.trainer import FreezeTrainer


def build_trainer(
    args: FreezeTrainingArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: TrainBatches | None = None,
    eval_dataset: SortedPairs | None = None,
) -> FreezeTrainer:
    """A FreezeTrainer with this recipe's loss, collator, metrics and progress lines."""
    check_sharding(os.environ)
    with as_refusal(args):
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
    if trainer.accelerator.ddp_handler is not None:
        trainer.accelerator.ddp_handler.gradient_as_bucket_view = True  # no second copy of the gradients
    trainer.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
    trainer.add_callback(EpochLines())
    if train_dataset is not None:
        trainer.add_callback(EpochOrder(trainer))
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
    return trainer


def mean_loss(label_smoothing: float) -> Callable[..., Tensor]:
    """The Trainer's compute_loss_func: cross-entropy summed over a micro-batch, over the examples of the whole step.

    A mean of each micro-batch would weigh a short last one too much; and whether the Trainer divides by the
    accumulation steps is guessed from the model's signature (transformers#47688).
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The micro-batch's share of the step's mean; 0 where a rank has no example in a short last step."""
        logits = outputs["logits"].float()
        total = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        items = (labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch
        # with --average_tokens_across_devices false the items are this rank's own
        return total / (items.clamp(min=1) if isinstance(items, Tensor) else max(items, 1))

    return loss
