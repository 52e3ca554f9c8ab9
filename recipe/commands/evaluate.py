"""A saved model's scores on a labelled split, with intervals, and beside another model's."""

import contextlib
import copy
import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from recipe.arguments import ModelArguments, RecipeArguments
from recipe.command_line.saved_run import describe_other_types, describe_unrecorded, max_length_of
from recipe.commands.answering import answer
from recipe.data.opening import limited, require_split
from recipe.data.pairs import UNLABELLED
from recipe.data.splits import Split, iterate
from recipe.errors import Damaged, Missing, UserError
from recipe.evaluation.answers import Answers
from recipe.evaluation.comparing import mcnemar, mean_difference, order_consistency
from recipe.evaluation.metrics import accuracy_at, score
from recipe.evaluation.regression import correlation, order_gap
from recipe.file_names import MODEL, SCORES
from recipe.model.loading import check_labels, load_fine_tuned
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import say
from recipe.reporting.outputs import check_answers, check_writable
from recipe.reporting.scores import format_evaluation
from recipe.system.files import sha256_of, write_json
from recipe.system.json_files import read_json


def evaluate(arguments: RecipeArguments) -> dict[str, Any]:
    """Scores of a fine-tuned model, by the Trainer's names (eval_accuracy, ...), printed and written to output_dir.

    To eval_results.json for the validation split, to eval_results_test.json and the like for another.

    Raises:
        UserError: the model has no classifier, its labels are not the data's, or the data have none.
    """
    args, name = arguments.training, arguments.data.eval_split or "validation"
    folder = args.folder
    results = SCORES if name == "validation" else f"eval_results_{name}.json"
    if args.process_index == 0:
        check_writable(folder)
        check_answers(folder, [results])
    split, answers, swapped, others = _answers(arguments)
    metrics = {f"eval_{key}": value for key, value in score(answers.logits, answers.labels).items()}
    if not answers.stored:  # else they would be the tail's, and not the model's
        metrics |= {"eval_runtime": answers.seconds, "eval_samples_per_second": split.rows / answers.seconds}
    metrics |= {"eval_split": name, "eval_source": split.source, "eval_rows": split.rows}
    for limit in limited(arguments.data, split):
        metrics["eval_limit"] = limit
    metrics |= {"eval_unit": split.unit, "eval_model_sha256": _sha256(arguments.model.name)}
    if swapped is not None:
        metrics |= {f"eval_{key}": value for key, value in _both_orders(answers, swapped).items()}
    if name != "validation" and not answers.regression:
        metrics |= _at_chosen_threshold(arguments, answers, metrics["eval_model_sha256"])
    if others is not None:
        metrics |= _compared(answers, others, arguments.model.against)
    if args.process_index > 0:
        return metrics
    path = folder / results
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, metrics)
    for line in [*split.left_out(), *split.notes]:
        say(args, f"note: {line}")
    say(args, format_evaluation(metrics, arguments.model, list(split.label_names)))
    say(args, f"results         {path}\nnext            make predict RUN={shlex.quote(arguments.model.name)}")
    return metrics


def _answers(arguments: RecipeArguments) -> tuple[Split, Answers, Answers | None, Answers | None]:
    """The split; to it the model's answers, those with a pair's sentences swapped, and those of the --against model.

    Both models are loaded before anything is answered.
    """
    model, tokenizer = load_fine_tuned(arguments)
    other = open_against(arguments)
    split = open_labelled(arguments)
    check_labels(model, split, arguments.model.model_name_or_path)
    if other is not None:
        with _naming_against():
            check_labels(other[1], split, arguments.model.against)
        theirs, ours = (each.data.max_length for each in (other[0], arguments))
        if theirs != ours:
            told = (
                f"note: --against {arguments.model.against} reads {theirs} tokens of a pair, as its run did, not {ours}"
            )
            say(arguments.training, told)
    for each in filter(None, [arguments.model.name, arguments.model.against]):
        for line in [*describe_unrecorded(each), *describe_other_types(each, bool(arguments.training.bf16))]:
            say(arguments.training, f"note: {line}")
    mine = answer(arguments, model, tokenizer, split, from_cache=True)
    in_pairs = split.unit == "pairs"
    swapped = answer(arguments, model, tokenizer, split, from_cache=True, swapped=True) if in_pairs else None
    return split, mine, swapped, None if other is None else answer(*other, split, from_cache=True)


def _both_orders(answers: Answers, swapped: Answers) -> dict[str, Any]:
    """What the second order of the sentences changes."""
    if answers.regression:
        return order_gap(answers.scores, swapped.scores, answers.labels)
    return order_consistency(answers.probabilities, swapped.probabilities, answers.labels)


def _compared(answers: Answers, others: Answers, against: str | None) -> dict[str, Any]:
    """What there is between the answers of two models: right ones, or of scores the squared errors."""
    if answers.regression:
        squares = [each.errors**2 for each in (answers, others)]
        theirs = {"pearson": correlation(others.scores, others.labels), "mse": float(squares[1].mean())}
        return {"eval_compared": {"against": against, **theirs, **mean_difference(*squares)}}
    tested = mcnemar(answers.right, others.right) | mean_difference(answers.right, others.right)
    return {"eval_mcnemar": {"against": against, "accuracy": float(others.right.mean()), **tested}}


def open_against(
    arguments: RecipeArguments,
) -> tuple[RecipeArguments, BertForPairwiseCLS, PreTrainedTokenizerBase] | None:
    """The model that --against names, how it is asked, and its tokenizer; None where it names none.

    Raises:
        UserError: this recipe did not save it.
    """
    name = arguments.model.against
    if name is None:
        return None
    data = dataclasses.replace(arguments.data, max_length=max_length_of(name) or arguments.data.max_length)
    theirs = arguments._replace(model=ModelArguments(model_name_or_path=name), data=data)
    with _naming_against():
        return theirs, *load_fine_tuned(theirs)


@contextlib.contextmanager
def _naming_against() -> Iterator[None]:
    """Let an error name the flag that was given."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--model_name_or_path", "--against", 1)) from error


def open_labelled(arguments: RecipeArguments) -> Split:
    """The split that is to be scored.

    Raises:
        UserError: there is none, or it has pairs without a label.
    """
    split = require_split(arguments.data, arguments.data.eval_split or "validation")
    if any(pair["label"] == UNLABELLED for pair in iterate(split.pairs)):
        raise UserError(f"{split.source}: has pairs without a label, which cannot be scored; --do_predict answers them")
    return split


def _sha256(name: str) -> str | None:
    """That of a model's weights, in a folder or from the Hub; None where there is no such file."""
    path = Path(name) / MODEL if Path(name).is_dir() else Path(str(try_to_load_from_cache(name, MODEL)))
    return sha256_of(path) if path.is_file() else None


def _at_chosen_threshold(arguments: RecipeArguments, answers: Answers, sha256: str | None) -> dict[str, Any]:
    """Accuracy at the threshold that an earlier evaluation of the same model chose on the validation split.

    A split's own is no score.
    """
    args = arguments.training
    try:
        before = read_json(args.folder / SCORES, {"eval_best_threshold?": float, "eval_model_sha256?": (str, None)})
    except Missing:
        return {}
    except Damaged as damage:
        say(args, f"note: the threshold that validation chose is not known: {damage}")
        return {}
    threshold = before.get("eval_best_threshold")
    if threshold is None:
        return {}
    if sha256 is None or before.get("eval_model_sha256") != sha256:
        told = f"{args.folder / SCORES} is not known to be this model's; --do_eval of the validation split chooses one"
        say(args, f"note: no threshold that validation chose is applied: {told}")
        return {}
    at = accuracy_at(threshold, answers.probabilities[:, 1], answers.labels)
    return {"eval_validation_threshold": threshold, "eval_accuracy_at_validation_threshold": at}


def with_its_model(arguments: RecipeArguments) -> RecipeArguments:
    """The arguments of --do_eval or --do_predict for what training by these has left in output_dir."""
    args, model = copy.copy(arguments.training), arguments.model
    args.eval_strategy, args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
    args.load_best_model_at_end = args.push_to_hub = False
    args.early_stopping_patience, args.report_to = None, []
    kept = {name: getattr(model, name) for name in ("dtype", "attn_implementation", "against")}
    mine = ModelArguments(model_name_or_path=args.output_dir, **kept)
    return arguments._replace(training=args, model=mine)
