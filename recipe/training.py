"""A run put together: data, model, freezing, prefix cache, Trainer, and the best model saved."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import datasets
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import TrainOutput

from recipe.arguments import DEFAULT_MODEL, DataArguments, FreezeTrainingArguments, RecipeArguments
from recipe.batching import ArrowLookup, Source, StepShape, Stream, TrainBatches
from recipe.caching import CachedSplit, TokenizedSplit, cache_prefix, describe_prefix
from recipe.checkpointing import Checkpoint
from recipe.data import Examples, Split, iterate, iterate_batches, open_split, require_split, tokenize
from recipe.errors import RunError, UserError
from recipe.finishing import finish
from recipe.freezing import fingerprint, freeze, make_plan, parse_layers, wasteful_choices
from recipe.gpu import COMPILED, compile_tail, keep_on_gpu
from recipe.identity import make_identity, same_on_all_ranks
from recipe.loading import load_config, load_model, load_tokenizer, name_labels
from recipe.modeling import BertForPairwiseCLS
from recipe.progress import quiet_libraries, say
from recipe.ranks import held_output, together
from recipe.reporting import RunReport, format_finished, format_plan, format_summary
from recipe.resuming import choose, same_prefix
from recipe.signals import SaveAndStop, StopRequest, stop_requests
from recipe.tokens import SortedPairs, read_tokens
from recipe.trainer import FreezeTrainer, build_trainer


def train(arguments: RecipeArguments) -> RunReport | None:
    """Fine-tune as the arguments say; the best model, its results and run.json are in output_dir afterwards.

    Goes on from where an earlier run of the same command stopped; None where it had finished.

    Raises:
        UserError: an argument or the data are not right. Nothing has been written to output_dir then.
        RunError: the loss became non-finite, a frozen weight changed, or the disk is full.
        Stopped: by SIGTERM or Ctrl-C.
    """
    with stop_requests() as request:
        return _train(arguments, request)


class Prepared(NamedTuple):
    """All that a run is made of before anything is computed or written."""

    model: BertForPairwiseCLS
    tokenizer: PreTrainedTokenizerBase
    splits: list[Split]
    tokenized: list[TokenizedSplit]
    report: RunReport


def prepare(arguments: RecipeArguments) -> Prepared:
    """Open data and model, freeze, and say what is trained on what.

    Raises:
        UserError: an argument or the data are not right.
    """
    args, started = arguments.training, time.perf_counter()
    quiet_libraries()
    set_seed(args.seed)
    config, options = load_config(arguments.model)
    parse_layers(arguments.freeze.freeze_layers, config.num_hidden_layers)
    _check_length(arguments.data, config.max_position_embeddings)
    splits = _open_splits(arguments)
    name_labels(config, splits[0].label_names)
    tokenizer = load_tokenizer(arguments.model, config, options)
    model = load_model(arguments.model, config, options)
    freeze(model, arguments.freeze)
    plan = make_plan(model)
    model.config.frozen_prefix_depth = plan.prefix_depth
    say(args, format_plan(plan, config.num_hidden_layers))
    for line in wasteful_choices(plan, bool(args.activation_checkpointing)):
        say(args, f"note: {line}")
    for split in splits:
        say(args, _describe(split))
    report = RunReport(plan, make_identity(arguments, model, splits, tokenizer), started)
    max_length = arguments.data.max_length
    tokenized = [TokenizedSplit(s.source, s.rows, tokenize(s.pairs, tokenizer, max_length), s.shards) for s in splits]
    return Prepared(model, tokenizer, splits, tokenized, report)


def _train(arguments: RecipeArguments, request: StopRequest) -> RunReport | None:
    args = arguments.training
    model, tokenizer, splits, tokenized, report = together(args, lambda: prepare(arguments))
    identity = report.identity
    same_on_all_ranks(args, identity)
    with held_output(args) as shared:
        if not shared:
            say(args, f"note: the machines share no {args.output_dir}: each keeps its own checkpoints there")
        resume = choose(arguments, identity, splits[0].rows)
        for line in resume.notes:
            say(args, f"note: {line}")
        if resume.finished:
            if args.process_index == 0:
                say(args, format_finished(args.output_dir))
            return None
        trainer = build(arguments, model, tokenizer, tokenized, report, resume.checkpoint)
        output = _run(trainer, request, resume.checkpoint)
        model.unpark_prefix()
        if fingerprint(model, trained=False) != identity["weights"]["frozen"]:
            raise RunError("a frozen weight changed during training; this is a bug in the recipe, please report it")
        finish(arguments, trainer, output, report, splits[1] if len(splits) > 1 else None)
        if args.push_to_hub:
            trainer.push_to_hub()
    say(args, format_summary(report, args.output_dir))
    return report


def _run(trainer: FreezeTrainer, request: StopRequest, checkpoint: Checkpoint | None) -> TrainOutput:
    if checkpoint is not None:
        say(trainer.args, f"going on from step {checkpoint.step}: {checkpoint.folder}")
    trainer.add_callback(SaveAndStop(request))
    request.deferred = True
    try:
        return trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    except BaseException:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # takes the bar away
        raise
    finally:
        request.deferred = False


def _open_splits(arguments: RecipeArguments) -> list[Split]:
    evaluates = arguments.training.eval_strategy != "no"
    train_split = require_split(arguments.data, "train")
    eval_split = (require_split if evaluates else open_split)(arguments.data, "validation")
    if eval_split is None:
        return [train_split]
    if eval_split.label_names != train_split.label_names:
        raise UserError(
            f"{eval_split.source}: its labels are {eval_split.label_names}, "
            f"those of the training split {train_split.label_names}"
        )
    return [train_split, eval_split]


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
    if cached:
        if all(each.whole for each in cached):
            model.park_prefix()
            caches = keep_on_gpu([each.cache for each in cached], arguments.training)
            cached = [each._replace(cache=cache) for each, cache in zip(cached, caches, strict=True)]
            compile_tail(model, caches[0], arguments.training, before)
            prefix += COMPILED if model.compiled_tail else ""
        train_data = cached_batches(cached[0], arguments)
        eval_data = cached[1].sorted_pairs() if len(cached) > 1 else None
    else:
        train_data = train_batches(splits[0], arguments)
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


def _check_length(args: DataArguments, positions: int) -> None:
    if args.max_length > positions:
        raise UserError(
            f"--max_length {args.max_length}: the model has {positions} positions; at most that is expected"
        )


def _describe(split: Split) -> str:
    skipped = f"; {len(split.skipped):,} bad rows left out, the first: {split.skipped[0]}" if split.skipped else ""
    return f"{split.name}: {split.rows:,} pairs from {split.source}{skipped}"
