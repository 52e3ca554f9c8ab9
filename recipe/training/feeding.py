"""What a run reads, in this recipe's order: pairs from the prefix cache, from Arrow, or tokenised as they stream."""

import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import datasets
import torch
from transformers import PreTrainedTokenizerBase, enable_full_determinism, set_seed

from recipe.arguments import FreezeTrainingArguments, RecipeArguments
from recipe.batches.order import ArrowLookup, Source, StepShape, Stream, TrainBatches
from recipe.batches.tokens import SortedPairs, read_tokens
from recipe.cache.cached_split import CachedSplit, PrefixState, describe_first_cut, prefix_state, recorded_state
from recipe.cache.policy import cache_prefix
from recipe.checkpoints.carried import carried
from recipe.checkpoints.compatibility import same_prefix
from recipe.checkpoints.identity import evaluated_with
from recipe.checkpoints.manifest import Checkpoint
from recipe.data.splits import Split, iterate, iterate_batches
from recipe.model.modeling import BertForPairwiseCLS
from recipe.model.offloading import offload_prefix
from recipe.process.progress import say
from recipe.system.distributed import together
from recipe.training.accelerator import compile_tail, place_caches
from recipe.training.build import build_trainer
from recipe.training.loss import class_weights, describe_weights
from recipe.training.preflight import preflight
from recipe.training.trainer import FreezeTrainer
from recipe.training.workers import do_without_spawned_workers, do_without_workers_where_short

NO_PAIRS = SortedPairs(torch.empty(0), lambda index: {})  # in place of a validation split that is yet to be read


class Prepared(NamedTuple):
    """All that a run is made of before anything is computed or written.

    Attributes:
        splits: the training split and, where there is one, the validation split, both tokenised.
        identity: what its result follows from.
    """

    model: BertForPairwiseCLS
    tokenizer: PreTrainedTokenizerBase
    splits: list[Split]
    identity: dict[str, Any]


def build(arguments: RecipeArguments, made: Prepared, checkpoint: Checkpoint | None = None) -> FreezeTrainer:
    """The Trainer over the splits, ready to go on from `checkpoint`.

    It reads the prefix cache where there is to be one, with the model's prefix offloaded, else the tokens. All that
    can be refused is built before anything is encoded.

    Raises:
        UserError: what the arguments ask for cannot be built, or not be gone on with.
    """
    args = arguments.training
    unread = NO_PAIRS if len(made.splits) > 1 else None
    plain = train_batches(made.splits[0], arguments)
    weights = together(args, lambda: class_weights(args.class_weights, made.splits[0]))
    if weights is not None:
        say(args, describe_weights(weights, made.splits[0].label_names))
    trainer = together(args, lambda: build_trainer(args, made.model, made.tokenizer, plain, unread, weights))
    together(args, lambda: preflight(trainer, args.total_steps(made.splits[0].rows)))
    start = time.perf_counter()
    before = recorded_state(checkpoint.manifest["prefix"]) if checkpoint else None
    cached = cache_prefix(made.model, made.splits, arguments, before)
    trainer.encode_seconds = time.perf_counter() - start
    prefix = _feed(trainer, arguments, made.splits, cached)
    if checkpoint is not None:
        same_prefix(checkpoint, prefix)
    # what was encoded or measured meanwhile must not change what dropout draws
    enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
    trainer.carried = carried(checkpoint)
    trainer.run = {
        "identity": made.identity,
        "evaluated_with": evaluated_with(arguments),
        "prefix": prefix._asdict(),
        "base_model": arguments.model.name,
        "frozen_prefix_depth": made.model.prefix_depth,
    }
    return trainer


def _feed(
    trainer: FreezeTrainer, arguments: RecipeArguments, splits: list[Split], cached: list[CachedSplit] | None
) -> PrefixState:
    """Give the trainer its batches, from the cache or the tokens; returns how the frozen prefix comes to the tail."""
    args, model = arguments.training, trainer.model
    whole = cached is not None and all(each.whole for each in cached)
    if args.compile_tail == "on" and not whole:
        say(args, "note: --compile_tail compiles nothing, since not all batches come from the prefix cache")
    if cached:
        do_without_spawned_workers(args)
        if whole:
            offload_prefix(model)
            caches = place_caches([each.cache for each in cached], args)
            cached = [each._replace(cache=cache) for each, cache in zip(cached, caches, strict=True)]
            if args.compile_tail == "on":
                compile_tail(model, args.gradient_accumulation_steps)
        train = cached[0]
        trainer.train_dataset = ordered(lambda: train, train.length, len(train.lengths), arguments)
        trainer.eval_dataset = cached[1].sorted_pairs() if len(cached) > 1 else None
    else:
        for line in chain.from_iterable(map(describe_first_cut, splits)):
            say(args, line)
        trainer.eval_dataset = sorted_pairs(splits[1]) if len(splits) > 1 else None
    do_without_workers_where_short(arguments, cached[0].cache.states[0].nbytes if cached else 0)
    return prefix_state(cached, compiled=model.compiled_tail is not None)


def train_batches(split: Split, arguments: RecipeArguments) -> TrainBatches:
    """The training split in this recipe's order, tokenised as it streams, or looked up in Arrow."""
    if isinstance(split.examples, datasets.Dataset):
        open_source: Callable[[], Source] = partial(ArrowLookup, split.examples)
    else:
        open_source = partial(_restart, split)
    return ordered(open_source, _tokens, split.rows, arguments)


def ordered(open_source: Any, length_of: Any, count: int, arguments: RecipeArguments) -> TrainBatches:
    """A run's batches of what `open_source()` gives, of `count` examples with `length_of` tokens each."""
    args: FreezeTrainingArguments = arguments.training
    shape = StepShape(
        args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size, args.process_index
    )
    seed = args.seed if args.data_seed is None else args.data_seed
    return TrainBatches(open_source, length_of, count, shape, arguments.data.shuffle_buffer_size, seed)


def _restart(split: Split) -> Stream:
    return Stream(iterate(split.examples), split.rows, split.source)


def _tokens(example: dict[str, Any]) -> int:
    return len(example["input_ids"])


def sorted_pairs(split: Split) -> SortedPairs:
    """A tokenised split read whole, for evaluation."""
    tokens = read_tokens(iterate_batches(split.examples))
    return tokens.sorted_pairs()
