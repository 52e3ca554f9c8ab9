"""A run put together: data, model, freezing, prefix cache, Trainer, and the best model saved."""

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from recipe.arguments import DataArguments, FreezeTrainingArguments, RecipeArguments, RunError, UserError
from recipe.batching import StepShape, Take, TrainBatches, open_arrow, open_stream
from recipe.caching import CachedSplit, cache_prefix
from recipe.data import Examples, Split, iterate, iterate_batches, open_split, require_split, tokenize
from recipe.freezing import freeze, frozen_fingerprint, make_plan, parse_layers, wasteful_choices
from recipe.loading import load_config, load_model, load_tokenizer, name_labels
from recipe.modeling import BertForPairwiseCLS
from recipe.progress import say
from recipe.reporting import RunReport, format_plan, write_report
from recipe.tokens import SortedPairs, read_tokens
from recipe.trainer import FreezeTrainer, build_trainer


def quiet_libraries() -> None:
    """Leave standard error to what a user can act on."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def train(arguments: RecipeArguments) -> RunReport:
    """Fine-tune as the arguments say; the best model, its results and run.json are in output_dir afterwards.

    Raises:
        UserError: an argument or the data are not right. Nothing has been written to output_dir then.
        RunError: the loss became non-finite, or a frozen weight changed.
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
    before = frozen_fingerprint(model)
    report = RunReport(plan=plan, frozen_sha256=before, started=started)
    max_length = arguments.data.max_length
    tokenized = [TokenizedSplit(s.source, s.rows, tokenize(s.pairs, tokenizer, max_length)) for s in splits]
    trainer = build(arguments, model, tokenizer, tokenized, report)
    _remove_stale(args)
    output = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    model.unpark_prefix()
    if frozen_fingerprint(model) != before:
        raise RunError("a frozen weight changed during training; this is a bug in the recipe, please report it")
    return _finish(arguments, trainer, output, report)


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


class TokenizedSplit(NamedTuple):
    """A split's tokenised examples, how many there are, and what they are for messages."""

    source: str
    rows: int
    examples: Examples


def build(
    arguments: RecipeArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    splits: list[TokenizedSplit],
    report: RunReport,
) -> FreezeTrainer:
    """The Trainer over the training split and, where there is one, the validation split.

    It reads the prefix cache where there is to be one, with the model's prefix parked, else the tokens.
    """
    start = time.perf_counter()
    cached = cache_prefix(model, splits, arguments)
    report.encode_seconds = time.perf_counter() - start
    if cached:
        model.park_prefix()
        train_data = cached_batches(cached[0], arguments)
        eval_data = cached[1].sorted_pairs() if len(cached) > 1 else None
    else:
        train_data = train_batches(splits[0], arguments)
        eval_data = sorted_pairs(splits[1].examples) if len(splits) > 1 else None
    return build_trainer(arguments.training, model, tokenizer, train_data, eval_data)


def train_batches(split: TokenizedSplit, arguments: RecipeArguments) -> TrainBatches:
    """The training split in this recipe's order, tokenised as it streams, or looked up in Arrow."""
    if isinstance(split.examples, datasets.Dataset):
        open_source = partial(open_arrow, split.examples)
    else:
        open_source = partial(_restart, split.examples, split.rows, split.source)
    return _ordered(open_source, _tokens, split.rows, arguments)


def cached_batches(cached: CachedSplit, arguments: RecipeArguments) -> TrainBatches:
    """The same batches in the same order, looked up in the prefix cache."""
    lengths = cached.lengths.tolist()
    return _ordered(lambda: cached.take, lambda example: lengths[example["index"]], len(lengths), arguments)


def _ordered(open_source: Any, length_of: Any, count: int, arguments: RecipeArguments) -> TrainBatches:
    args: FreezeTrainingArguments = arguments.training
    seed = args.seed if args.data_seed is None else args.data_seed
    shape = StepShape(
        args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size, args.process_index
    )
    return TrainBatches(open_source, length_of, count, shape, arguments.data.shuffle_buffer_size, seed)


def _restart(examples: datasets.IterableDataset, rows: int, source: str) -> Take:
    return open_stream(iterate(examples), rows, source)


def _tokens(example: dict[str, Any]) -> int:
    return len(example["input_ids"])


def sorted_pairs(examples: Examples) -> SortedPairs:
    """A split's tokenised examples read whole, for evaluation."""
    tokens = read_tokens(iterate_batches(examples))
    assert tokens is not None
    return SortedPairs(tokens.lengths, tokens.example)


def _check_length(args: DataArguments, positions: int) -> None:
    if args.max_length > positions:
        raise UserError(
            f"--max_length {args.max_length}: the model has {positions} positions; at most that is expected"
        )


def _describe(split: Split) -> str:
    skipped = f"; {len(split.skipped):,} bad rows left out, the first: {split.skipped[0]}" if split.skipped else ""
    return f"{split.name}: {split.rows:,} pairs from {split.source}{skipped}"


def _remove_stale(args: FreezeTrainingArguments) -> None:
    """Checkpoints and results of an earlier run in the same folder would be rotated and merged with this one's."""
    if args.resume_from_checkpoint or not args.should_save:
        return
    folder = Path(args.output_dir or ".")
    for stale in [*folder.glob("checkpoint-*"), *folder.glob("*_results.json")]:
        if stale.is_dir():
            shutil.rmtree(stale)
        else:
            stale.unlink()


def _finish(arguments: RecipeArguments, trainer: FreezeTrainer, output: TrainOutput, report: RunReport) -> RunReport:
    args, state = arguments.training, trainer.state
    evaluations = [entry for entry in state.log_history if "eval_accuracy" in entry]
    best = [entry for entry in evaluations if entry["step"] == state.best_global_step] or evaluations[-1:]
    report.metrics = {key: value for key, value in best[0].items() if key != "step"} if best else {}
    report.train_seconds = output.metrics["train_runtime"]
    report.eval_seconds = sum(entry["eval_runtime"] for entry in evaluations)
    report.total_seconds = time.perf_counter() - report.started
    report.gpu_bytes = torch.cuda.max_memory_allocated() if args.device.type == "cuda" else 0
    if args.should_save:
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.save_pretrained(args.output_dir)
        trainer.processing_class.save_pretrained(args.output_dir)
        trainer.save_metrics("train", {**output.metrics, "epoch": state.epoch})
        if report.metrics:
            trainer.save_metrics("eval", report.metrics)
        write_report(arguments, report)
    return report
