"""A FreezeTrainer put together: its data in this recipe's order, its loss, and what a GPU asks for."""

import math
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import datasets
import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    enable_full_determinism,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from recipe.arguments import FreezeTrainingArguments, RecipeArguments
from recipe.batching import ArrowLookup, Source, StepShape, Stream, TrainBatches
from recipe.cached_split import CachedSplit, TokenizedSplit, describe_first_cut, describe_prefix
from recipe.caching import cache_prefix
from recipe.checkpointing import Checkpoint
from recipe.data import Examples, iterate, iterate_batches
from recipe.failures import as_refusal
from recipe.gpu import COMPILED, compile_tail, place
from recipe.loss import mean_loss
from recipe.metrics import compute_metrics
from recipe.modeling import BertForPairwiseCLS
from recipe.preflight import preflight
from recipe.progress import EpochLines, say
from recipe.ranks import check_sharding, together
from recipe.reporting import RunReport
from recipe.resuming import same_prefix
from recipe.tokens import SortedPairs, collate, read_tokens
from recipe.trainer import FreezeTrainer
from recipe.worker_memory import do_without_workers_where_short

NO_PAIRS = SortedPairs(torch.empty(0), lambda index: {})  # in place of a validation split that is yet to be read


def build(
    arguments: RecipeArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    splits: list[TokenizedSplit],
    report: RunReport,
    checkpoint: Checkpoint | None = None,
) -> FreezeTrainer:
    """The Trainer over the training split and, where there is one, the validation split.

    It reads the prefix cache where there is to be one, with the model's prefix parked, else the tokens. All that
    can be refused is built before anything is encoded.

    Raises:
        UserError: what the arguments ask for cannot be built, or not be gone on with.
    """
    args = arguments.training
    unread = NO_PAIRS if len(splits) > 1 else None
    plain = train_batches(splits[0], arguments)
    trainer = together(args, lambda: build_trainer(args, model, tokenizer, plain, unread))
    together(args, lambda: preflight(trainer, args.total_steps(splits[0].rows)))
    start = time.perf_counter()
    before = checkpoint.manifest["prefix"] if checkpoint else None
    cached = cache_prefix(model, splits, arguments, before)
    report.encode_seconds = time.perf_counter() - start
    prefix = _feed(trainer, arguments, splits, cached, before)
    if checkpoint is not None:
        same_prefix(checkpoint, prefix)
    # what was encoded or measured meanwhile must not change what dropout draws
    enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
    trainer.run = {
        "identity": report.identity,
        "prefix": prefix,
        "base_model": arguments.model.name,
        "frozen_prefix_depth": model.prefix_depth,
    }
    return trainer


def _feed(
    trainer: FreezeTrainer,
    arguments: RecipeArguments,
    splits: list[TokenizedSplit],
    cached: list[CachedSplit] | None,
    before: str | None,
) -> str:
    """Give the trainer its batches, from the cache or the tokens; returns how the frozen prefix comes to the tail."""
    args, model = arguments.training, trainer.model
    prefix = describe_prefix(cached)
    whole = cached is not None and all(each.whole for each in cached)
    if args.compile_tail != "off" and not whole:
        say(args, "note: --compile_tail compiles nothing, since not all batches come from the prefix cache")
    if cached:
        if whole:
            model.park_prefix()
            caches = place([each.cache for each in cached], args)
            cached = [each._replace(cache=cache) for each, cache in zip(cached, caches, strict=True)]
            compile_tail(model, caches[0], args, before)
            prefix += COMPILED if model.compiled_tail else ""
        trainer.train_dataset = cached_batches(cached[0], arguments)
        trainer.eval_dataset = cached[1].sorted_pairs() if len(cached) > 1 else None
    else:
        for line in chain.from_iterable(map(describe_first_cut, splits)):
            say(args, line)
        trainer.eval_dataset = sorted_pairs(splits[1].examples) if len(splits) > 1 else None
    do_without_workers_where_short(arguments, cached[0].cache.states[0].nbytes if cached else 0)
    return prefix


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

    def __init__(self, trainer: FreezeTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Also how many micro-batches of it a resume passes by."""
        batches = self.trainer.train_dataset
        steps = math.ceil(len(batches) / args.gradient_accumulation_steps)
        epoch, passed = divmod(state.global_step, steps)
        batches.set_epoch(epoch, passed * args.gradient_accumulation_steps)


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
