"""A FreezeTrainer put together: its data in this recipe's order, its loss, and what a GPU asks for."""

import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Any

import datasets
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from recipe.arguments import DEFAULT_MODEL, FreezeTrainingArguments, RecipeArguments
from recipe.batching import ArrowLookup, Source, StepShape, Stream, TrainBatches
from recipe.cached_split import CachedSplit, TokenizedSplit, describe_first_cut, describe_prefix
from recipe.caching import cache_prefix
from recipe.checkpointing import Checkpoint
from recipe.data import Examples, iterate, iterate_batches
from recipe.errors import UserError
from recipe.gpu import COMPILED, compile_tail, place
from recipe.metrics import compute_metrics
from recipe.modeling import BertForPairwiseCLS
from recipe.progress import EpochLines, say
from recipe.reporting import RunReport
from recipe.resuming import same_prefix
from recipe.tokens import SortedPairs, collate, read_tokens
from recipe.trainer import FreezeTrainer


def build(
    arguments: RecipeArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    splits: list[TokenizedSplit],
    report: RunReport,
    checkpoint: Checkpoint | None = None,
) -> FreezeTrainer:
    """The Trainer over the training split and, where there is one, the validation split.

    It reads the prefix cache where there is to be one, with the model's prefix parked, else the tokens.
    """
    start = time.perf_counter()
    before = checkpoint.manifest["prefix"] if checkpoint else None
    cached = cache_prefix(model, splits, arguments, before)
    report.encode_seconds = time.perf_counter() - start
    prefix = describe_prefix(cached)
    whole = cached is not None and all(each.whole for each in cached)
    if arguments.training.compile_tail != "off" and not whole:
        say(
            arguments.training,
            "note: --compile_tail compiles nothing, since not all batches come from the prefix cache",
        )
    if cached:
        if whole:
            model.park_prefix()
            caches = place([each.cache for each in cached], arguments.training)
            cached = [each._replace(cache=cache) for each, cache in zip(cached, caches, strict=True)]
            compile_tail(model, caches[0], arguments.training, before)
            prefix += COMPILED if model.compiled_tail else ""
        train_data = cached_batches(cached[0], arguments)
        eval_data = cached[1].sorted_pairs() if len(cached) > 1 else None
    else:
        train_data = train_batches(splits[0], arguments)
        for line in chain.from_iterable(map(describe_first_cut, splits)):
            say(arguments.training, line)
        eval_data = sorted_pairs(splits[1].examples) if len(splits) > 1 else None
    if checkpoint is not None:
        same_prefix(checkpoint, prefix)
    trainer = build_trainer(arguments.training, model, tokenizer, train_data, eval_data)
    trainer.run = {
        "identity": report.identity,
        "prefix": prefix,
        "base_model": arguments.model.model_name_or_path or DEFAULT_MODEL,
        "frozen_prefix_depth": model.prefix_depth,
    }
    return trainer


def train_batches(split: TokenizedSplit, arguments: RecipeArguments) -> TrainBatches:
    """The training split in this recipe's order, tokenised as it streams, or looked up in Arrow."""
    if isinstance(split.examples, datasets.Dataset):
        open_source: Callable[[], Source] = partial(ArrowLookup, split.examples)
    else:
        open_source = partial(_restart, split.examples, split.rows, split.source)
    return _ordered(open_source, _tokens, split.rows, arguments)


def cached_batches(cached: CachedSplit, arguments: RecipeArguments) -> TrainBatches:
    """The same batches in the same order, looked up in the prefix cache."""
    return _ordered(lambda: cached, cached.length, len(cached.lengths), arguments)


def _ordered(open_source: Any, length_of: Any, count: int, arguments: RecipeArguments) -> TrainBatches:
    args: FreezeTrainingArguments = arguments.training
    seed = args.seed if args.data_seed is None else args.data_seed
    shape = StepShape(
        args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size, args.process_index
    )
    return TrainBatches(open_source, length_of, count, shape, arguments.data.shuffle_buffer_size, seed)


def _restart(examples: datasets.IterableDataset, rows: int, source: str) -> Stream:
    return Stream(iterate(examples), rows, source)


def _tokens(example: dict[str, Any]) -> int:
    return len(example["input_ids"])


def sorted_pairs(examples: Examples) -> SortedPairs:
    """A split's tokenised examples read whole, for evaluation."""
    tokens = read_tokens(iterate_batches(examples))
    return SortedPairs(tokens.lengths, tokens.example)


class EpochOrder(TrainerCallback):
    """Tells the batches which epoch begins; the Trainer's own way to them is lost when a resume skips batches."""

    def __init__(self, batches: TrainBatches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Also how many micro-batches of it a resume passes by."""
        steps = math.ceil(len(self.batches) / args.gradient_accumulation_steps)
        epoch, passed = divmod(state.global_step, steps)
        self.batches.set_epoch(epoch, passed * args.gradient_accumulation_steps)


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


def check_sharding(environment: Mapping[str, str]) -> None:
    """Check that FSDP, where accelerate switched it on, gives whole weights to save: the Trainer saves none otherwise.

    Raises:
        UserError: it does not.
    """
    kind = environment.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and kind != "FULL_STATE_DICT":
        raise UserError(f"fsdp_state_dict_type {kind}: the model could not be saved; FULL_STATE_DICT is expected")


def build_trainer(
    args: FreezeTrainingArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: TrainBatches | None = None,
    eval_dataset: SortedPairs | None = None,
) -> FreezeTrainer:
    """A FreezeTrainer with this recipe's loss, collator, metrics and progress lines."""
    check_sharding(os.environ)
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
        trainer.add_callback(EpochOrder(train_dataset))
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
    return trainer
