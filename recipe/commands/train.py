"""A run put together: data, model, freezing, prefix cache, Trainer, and the best model saved."""

import os
import time

import torch
from transformers import set_seed
from transformers.trainer_utils import TrainOutput

from recipe.arguments import RecipeArguments
from recipe.batches.tokenization import tokenized
from recipe.checkpoints.identity import make_identity, same_on_all_ranks
from recipe.checkpoints.resuming import choose, tidy
from recipe.checkpoints.rotation import Checkpoint
from recipe.data.opening import check_paths, open_split, require_split
from recipe.data.splits import Split
from recipe.errors import RunError, UserError
from recipe.model.base_model import Base, name_labels, open_base
from recipe.model.freezing import freeze, make_plan, parse_layers, wasteful_choices
from recipe.model.loading import add_tails, check_length, load_model
from recipe.model.offloading import restore_prefix
from recipe.model.tokenizer import load_tokenizer, vocabulary_note
from recipe.model.weights import fingerprint
from recipe.process.allocator import keep_freed_memory
from recipe.process.failures import as_refusal, in_one_line
from recipe.process.launcher import describe_processes
from recipe.process.progress import quiet_libraries, say
from recipe.process.signals import StopRequest, stop_requests
from recipe.process.text import shown
from recipe.reporting.console import RunReport, checkpoint_bytes, format_finished, format_plan, format_summary
from recipe.reporting.figures import new_figure
from recipe.reporting.finishing import finish, push
from recipe.reporting.outputs import check_output
from recipe.reporting.repairing import complete
from recipe.system.distributed import held_output, together
from recipe.training.build import build_trainer
from recipe.training.callbacks import SaveAndStop
from recipe.training.feeding import NO_PAIRS, Prepared, build
from recipe.training.preflight import check_metric
from recipe.training.trainer import FreezeTrainer
from recipe.training_arguments import FreezeTrainingArguments


def train(arguments: RecipeArguments) -> RunReport | None:
    """Fine-tune as the arguments say; the best model, its results and run.json are in output_dir afterwards.

    Goes on from where an earlier run of the same command stopped; None where it had finished.

    Raises:
        UserError: an argument or the data are not right. Nothing has been written to output_dir then.
        RunError: the loss became non-finite, a frozen weight changed, or the disk is full.
        Stopped: by SIGTERM or Ctrl-C.
    """
    keep_freed_memory()
    with stop_requests() as request:
        return _train(arguments, request)


def prepare(arguments: RecipeArguments) -> Prepared:
    """Open data and model, freeze, and say what is trained on what.

    Raises:
        UserError: an argument or the data are not right.
    """
    args = arguments.training
    quiet_libraries()
    set_seed(args.seed)
    check_output(args.folder, arguments.model.name)
    if args.model_card and args.process_index == 0:
        with as_refusal(args):
            new_figure(1, 1)  # a backend that fails does so now
    check_paths(arguments.data, "train", *(["validation"] if _needs_validation(args) else []))
    base = open_base(arguments.model)
    parse_layers(arguments.freeze.freeze_layers, base.config.num_hidden_layers)
    check_length(arguments.data, base.config.max_position_embeddings)
    splits = open_splits(arguments)
    continues = name_labels(base, splits[0].label_names, splits[0].unit)
    tokenizer = load_tokenizer(base, arguments.data.max_length)
    model = load_model(base, keep_classifier=continues)
    freeze(model, arguments.freeze)
    add_tails(model, arguments.model.num_tails)
    plan = make_plan(model)
    model.config.frozen_prefix_depth = plan.prefix_depth
    say(args, format_plan(plan, checkpoint_bytes(plan, arguments)))
    say(args, shown(_describe_classifier(base, continues)))
    for line in filter(None, [vocabulary_note(base, tokenizer)]):
        say(args, f"note: {line}")
    for line in wasteful_choices(plan, bool(args.activation_checkpointing)):
        say(args, f"note: {line}")
    for split in splits:
        say(args, shown(split.describe()))
    if args.bf16:
        say(args, "computing in bfloat16 over float32 weights (--bf16 false: in float32)")
    gpus, threads = torch.accelerator.device_count(), torch.get_num_threads()
    say(args, describe_processes(args.world_size, args.device.type, threads, gpus, os.environ))
    splits = [tokenized(split, tokenizer, arguments.data.max_length) for split in splits]
    return Prepared(model, tokenizer, splits, make_identity(arguments, model, splits, tokenizer))


def _train(arguments: RecipeArguments, request: StopRequest) -> RunReport | None:
    args, started = arguments.training, time.perf_counter()
    made = together(args, lambda: prepare(arguments))
    model, tokenizer, splits, identity = made
    report = RunReport(make_plan(model), identity, started, processes=args.world_size)
    same_on_all_ranks(args, identity)
    with held_output(args, args.folder) as shared:
        if not shared:
            say(args, f"note: the machines share no {args.output_dir}: each keeps its own checkpoints there")
        resume = choose(arguments, identity, splits[0].rows)
        for line in resume.notes:
            say(args, f"note: {line}")
        if resume.finished:
            tidy(args, resume)
            complete(arguments, made, report)
            if args.process_index == 0:
                say(args, format_finished(args.output_dir))
            if args.push_to_hub:
                push(together(args, lambda: build_trainer(args, model, tokenizer, eval_dataset=NO_PAIRS)))
            return None
        trainer = build(arguments, made, resume.checkpoint)
        trainer.carried = trainer.carried._replace(changed=(*trainer.carried.changed, *resume.changed))
        report.encode_seconds, report.prefix = trainer.encode_seconds, trainer.run["prefix"]
        tidy(args, resume)
        output = _run(trainer, request, resume.checkpoint)
        restore_prefix(model)
        if fingerprint(model, trained=False) != identity["weights"]["frozen"]:
            raise RunError("a frozen weight changed during training; this is a bug in the recipe, please report it")
        finish(arguments, trainer, output, report, splits[1] if len(splits) > 1 else None)
        say(args, format_summary(report, args.output_dir))
        if args.push_to_hub:
            push(trainer)
    return report


def _run(trainer: FreezeTrainer, request: StopRequest, checkpoint: Checkpoint | None) -> TrainOutput:
    if checkpoint is not None:
        say(trainer.args, f"going on from step {checkpoint.step}: {checkpoint.folder}")
    trainer.add_callback(SaveAndStop(request))
    request.deferred = True
    first = checkpoint.step if checkpoint else 0
    try:
        with in_one_line(trainer.args, begun=lambda: trainer.state.global_step > first):
            return trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    except BaseException:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # takes the bar away
        raise
    finally:
        request.deferred = False


def open_splits(arguments: RecipeArguments) -> list[Split]:
    """The training split and, where there is one, the validation split.

    Raises:
        UserError: one that is needed is not there, or their labels differ, or there is no such metric on the second.
    """
    train_split = require_split(arguments.data, "train")
    eval_split = _eval_split(arguments)
    if eval_split is None:
        return [train_split]
    if eval_split.label_names != train_split.label_names:
        raise UserError(
            f"{eval_split.source}: its labels are {eval_split.label_names}, "
            f"those of the training split {train_split.label_names}"
        )
    if eval_split.fingerprint == train_split.fingerprint:
        eval_split.notes.append("the training split's own rows, so that scores say nothing of other ones")
    if arguments.training.eval_strategy != "no":
        check_metric(arguments.training, eval_split)
    return [train_split, eval_split]


def _needs_validation(args: FreezeTrainingArguments) -> bool:
    return bool(args.eval_strategy != "no" or args.eval_on_start)


def _eval_split(arguments: RecipeArguments) -> Split | None:
    """The validation split; where nothing is evaluated, one that is empty or cannot be read is left out."""
    if _needs_validation(arguments.training):
        return require_split(arguments.data, "validation")
    try:
        split = open_split(arguments.data, "validation")
        if split is None or split.rows:
            return split
        reason = f"{split.source}: no sentence pairs in it"
    except UserError as error:
        reason = str(error)
    say(arguments.training, shown(f"note: validation is left out, and not needed with --eval_strategy no: {reason}"))
    return None


def _describe_classifier(base: Base, continues: bool) -> str:
    """Where the classifier comes from; only one of several tails goes on from a run's."""
    names = ", ".join(base.config.id2label.values())
    others = ", new in every other tail" if base.args.num_tails > 1 else ""
    return f"classifier: {f'goes on from that of {base.name}{others}' if continues else 'new'}; labels {names}"
