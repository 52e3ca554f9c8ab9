"""FreezeTrainer, and how a run is put together: data, model, freezing, Trainer, the best model saved."""

import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from recipe.arguments import DataArguments, FreezeTrainingArguments, RecipeArguments, RunError, UserError
from recipe.batching import StepShape, TokenizedPairs, TrainBatches, TrainLoader, collate, open_arrow, open_stream
from recipe.data import Split, iterate, open_split, require_split, tokenize
from recipe.freezing import freeze, frozen_fingerprint, make_plan, parse_layers, wasteful_choices
from recipe.loading import load_config, load_model, load_tokenizer
from recipe.metrics import compute_metrics
from recipe.modeling import BertForPairwiseCLS
from recipe.reporting import EpochLines, RunReport, format_plan, say, write_report

# What AFQMC's labels mean, for whoever reads a prediction.
READABLE: dict[tuple[str, ...], list[str]] = {("0", "1"): ["different", "same"]}


class FreezeTrainer(Trainer):
    """A Trainer whose batches come in this recipe's order, and that stops at a loss that is not a number."""

    def get_train_dataloader(self) -> DataLoader:
        """The training micro-batches of this rank, not sharded by accelerate: they are this rank's own already."""
        return TrainLoader(
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


def mean_loss(label_smoothing: float) -> Callable[..., Tensor]:
    """The Trainer's compute_loss_func: cross-entropy summed over a micro-batch, over the examples of the whole step.

    A mean of each micro-batch would weigh a short last one too much; and whether the Trainer divides by the
    accumulation steps is guessed from the model's signature (transformers#47688).
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs["logits"].float()
        total = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    return loss


def build_trainer(
    args: FreezeTrainingArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: TrainBatches | None = None,
    eval_dataset: TokenizedPairs | None = None,
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
    return trainer


def quiet_libraries() -> None:
    """Leave standard error to what a user can act on."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def train(arguments: RecipeArguments) -> RunReport:
    """Fine-tune as the arguments say; the best model, its results and run.json are in output_dir afterwards.

    Raises:
        UserError: an argument or the data are not right. Nothing has been written then.
        RunError: the loss became non-finite, or a frozen weight changed.
    """
    args, data_args = arguments.training, arguments.data
    started = time.perf_counter()
    quiet_libraries()
    set_seed(args.seed)
    config, options = load_config(arguments.model)
    parse_layers(arguments.freeze.freeze_layers, config.num_hidden_layers)
    train_split = require_split(data_args, "train")
    eval_split = (
        require_split(data_args, "validation") if args.eval_strategy != "no" else open_split(data_args, "validation")
    )
    _check_labels(train_split, eval_split)
    _name_labels(config, train_split.label_names)
    tokenizer = load_tokenizer(arguments.model, config, options)
    _check_length(data_args, config.max_position_embeddings)
    model = load_model(arguments.model, config, options)
    freeze(model, arguments.freeze)
    plan = make_plan(model)
    say(args, format_plan(plan, config.num_hidden_layers))
    for line in wasteful_choices(plan, bool(args.activation_checkpointing)):
        say(args, f"note: {line}")
    for split in filter(None, (train_split, eval_split)):
        say(args, _describe(split))
    model.config.frozen_prefix_depth = plan.prefix_depth
    before = frozen_fingerprint(model)
    eval_dataset = tokenized(eval_split, tokenizer, data_args.max_length) if eval_split else None
    trainer = build_trainer(
        args, model, tokenizer, train_batches(train_split, tokenizer, data_args, args), eval_dataset
    )
    _remove_stale(args)
    output = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if frozen_fingerprint(model) != before:
        raise RunError("a frozen weight changed during training; this is a bug in the recipe, please report it")
    return _finish(arguments, trainer, output, RunReport(plan=plan, frozen_sha256=before, started=started))


def train_batches(
    split: Split, tokenizer: PreTrainedTokenizerBase, data_args: DataArguments, args: FreezeTrainingArguments
) -> TrainBatches:
    """The training split in this recipe's order, tokenised as it streams, or looked up in Arrow."""
    examples = tokenize(split.pairs, tokenizer, data_args.max_length)
    if isinstance(examples, datasets.Dataset):
        open_source = partial(open_arrow, examples)
    else:
        open_source = partial(_restart, examples, split.rows, split.source)
    seed = args.seed if args.data_seed is None else args.data_seed
    shape = StepShape(
        args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size, args.process_index
    )
    return TrainBatches(open_source, _tokens, split.rows, shape, data_args.shuffle_buffer_size, seed)


def _restart(examples: datasets.IterableDataset, rows: int, source: str) -> Any:
    return open_stream(iterate(examples), rows, source)


def _tokens(example: dict[str, Any]) -> int:
    return len(example["input_ids"])


def tokenized(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenizedPairs:
    """A split read whole, for evaluation."""
    return TokenizedPairs(iterate(tokenize(split.pairs, tokenizer, max_length)))


def _check_labels(train_split: Split, eval_split: Split | None) -> None:
    if eval_split and eval_split.label_names != train_split.label_names:
        raise UserError(
            f"{eval_split.source}: its labels are {eval_split.label_names}, "
            f"those of the training split {train_split.label_names}"
        )


def _name_labels(config: Any, names: list[str]) -> None:
    readable = READABLE.get(tuple(names), names)
    config.id2label = dict(enumerate(readable))
    config.label2id = {name: index for index, name in enumerate(readable)}


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
