"""A FreezeTrainer put together: this recipe's loss, collator, metrics and progress lines."""

import os
from functools import partial

from torch import Tensor
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from recipe.arguments import FreezeTrainingArguments
from recipe.batches.order import TrainBatches
from recipe.batches.tokens import SortedPairs
from recipe.cache.collator import collate
from recipe.evaluation.metrics import compute_metrics
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.failures import as_refusal
from recipe.system.arithmetic import check_compilation
from recipe.system.distributed import check_sharding
from recipe.training.callbacks import EpochLines, EpochOrder, GoneOnWith
from recipe.training.loss import mean_loss
from recipe.training.trainer import FreezeTrainer


def build_trainer(
    args: FreezeTrainingArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: TrainBatches | None = None,
    eval_dataset: SortedPairs | None = None,
    class_weights: Tensor | None = None,
) -> FreezeTrainer:
    """A FreezeTrainer with this recipe's loss, collator, metrics and progress lines."""
    check_sharding(os.environ)
    if train_dataset is not None:
        check_compilation(os.environ, args.gradient_accumulation_steps)
    with as_refusal(args):
        trainer = FreezeTrainer(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            data_collator=partial(collate, pad_token_id=tokenizer.pad_token_id),
            compute_metrics=compute_metrics,
            compute_loss_func=mean_loss(args.label_smoothing_factor, class_weights),
        )
    if trainer.accelerator.ddp_handler is not None:
        trainer.accelerator.ddp_handler.gradient_as_bucket_view = True  # no second copy of the gradients
    trainer.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
    trainer.add_callback(EpochLines())
    if train_dataset is not None:
        trainer.add_callback(EpochOrder(trainer))
        trainer.add_callback(GoneOnWith(trainer))
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
    return trainer
