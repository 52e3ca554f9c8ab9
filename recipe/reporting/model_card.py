"""The model card: README.md with its figures, which can be published as it is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from recipe.arguments import RecipeArguments
from recipe.data.splits import Split, iterate, unit_of
from recipe.evaluation.answers import Answers
from recipe.evaluation.metrics import by_name, decimals
from recipe.file_names import CARD, CONFUSION, CURVE, RELIABILITY, SCATTER
from recipe.process.text import fenced, markdown, without_places
from recipe.reporting.console import RunReport, describe_memory, format_plan
from recipe.reporting.figures import draw_confusion, draw_learning_curve, draw_reliability, draw_scatter
from recipe.reporting.scores import format_threshold

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
MISTAKES = 20
SCORES = {  # what the card calls them, by the metrics' names; the first four are a regression's
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "accuracy": "accuracy",
    "majority_baseline": "majority baseline",
    "loss": "loss",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "ece": "expected calibration error",
}


class Scored(NamedTuple):
    """The validation split, and what the model that a run ends with answers to it."""

    split: Split
    answers: Answers
    names: Sequence[str]  # the model's labels


def write_card(
    folder: Path,
    arguments: RecipeArguments,
    report: RunReport,
    log_history: Sequence[dict[str, Any]],
    scored: Scored | None,
) -> None:
    """Write README.md and its figures into `folder`; without the scores where there was no validation split."""
    draw_learning_curve(log_history, folder / CURVE)
    if scored is not None and scored.answers.regression:
        draw_scatter(scored.answers.scores, scored.answers.labels, folder / SCATTER)
    elif scored is not None:
        draw_confusion(report.metrics["eval_confusion_matrix"], scored.names, folder / CONFUSION)
        labels, error = scored.answers.labels, report.metrics["eval_ece"]
        draw_reliability(scored.answers.probabilities, labels, error, folder / RELIABILITY)
    text = _environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    (folder / CARD).write_text(text.render(**_content(arguments, report, scored)), encoding="utf-8")


def _environment() -> Environment:
    """Jinja with the card's filters; whatever comes from a user or the data goes through `markdown` or `fenced`."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined, autoescape=False
    )
    environment.filters |= {
        "markdown": markdown,
        "fenced": fenced,
        "decimals": decimals,
        "percent": lambda value: f"{value:.1%}",
        "seconds": lambda value: f"{value:.0f} s",
        "json": lambda value: json.dumps(value, ensure_ascii=False),
    }
    return environment


def _content(arguments: RecipeArguments, report: RunReport, scored: Scored | None) -> dict[str, Any]:
    """What the template's names stand for."""
    base, identity, scores = arguments.model.name, report.identity, by_name(report.metrics)
    partial = bool(scored and scored.split.rows == arguments.data.max_eval_samples)
    data = [(f"{name} data", value) for name, value in identity.get("data", {}).items()]
    weights = [(f"{part} weights, as loaded", value) for part, value in identity.get("weights", {}).items()]
    return {
        "metadata": _metadata(arguments, report, partial),
        "name": _name(arguments),
        "place": without_places(str(arguments.training.folder)),
        "base": Path(base).name if Path(base).exists() else base,
        "frozen": 1 - report.plan.trainable / report.plan.parameters,
        "scores": scores,
        "regression": arguments.data.task_type == "regression",
        "plan": format_plan(report.plan),
        "tails": arguments.model.num_tails,
        "figures": {"curve": CURVE, "confusion": CONFUSION, "reliability": RELIABILITY, "scatter": SCATTER},
        "pairs": scored.split.rows if scored else 0,
        "partial": partial,
        "left_out": len(scored.split.skipped) if scored else 0,
        "unit": unit_of(arguments.data),
        "rows": _rows(scores) if scored else [],
        "mistakes": mistakes(scored) if scored else None,
        "report": report,
        "memory": describe_memory(report),
        "fingerprints": data + weights,
        "versions": ", ".join(f"{name} {value}" for name, value in report.versions.items()),
    }


def _name(arguments: RecipeArguments) -> str:
    return arguments.training.folder.resolve().name


def _metadata(arguments: RecipeArguments, report: RunReport, partial: bool) -> str:
    """The Hub's metadata block; a local path is no repository, so it is not named as one.

    Scores on a part of the split are not among its results, which are ranked with those on all of it.
    """
    base, data = arguments.model.name, arguments.data
    in_pairs = unit_of(data) == "pairs"
    ours = "sentence pairs" if in_pairs else "sentences"
    local = any([data.data_dir, data.train_file])
    regression = data.task_type == "regression"
    task = "regression" if regression else "classification"
    kinds = {"pearsonr": "pearson", "spearmanr": "spearman"} if regression else {"accuracy": "accuracy", "f1": "f1"}
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=f"Sentence pair {task}" if in_pairs else f"Sentence {task}",
            dataset_type="local" if local else data.dataset_name,
            dataset_name=ours if local else data.dataset_config_name or data.dataset_name,
            dataset_split="validation",
            metric_type=kind,
            metric_value=round(report.metrics[f"eval_{name}"], 4),
        )
        for kind, name in (kinds.items() if report.metrics and not partial else ())
        if report.metrics[f"eval_{name}"] is not None
    ]
    card = ModelCardData(
        language="zh",
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=None if Path(base).exists() else base,
        datasets=None if local else [data.dataset_name],
        metrics=list(kinds),
        tags=[f"sentence-pair-{task}" if in_pairs else f"sentence-{task}", "freeze-fine-tuning"],
        model_name=_name(arguments) if results else None,
        eval_results=results or None,
    )
    return str(card.to_yaml())


def _rows(scores: dict[str, Any]) -> list[tuple[str, float | None]]:
    rows = [(title, scores[name]) for name, title in SCORES.items() if name in scores]
    if "best_threshold" in scores:
        at = f"accuracy at {format_threshold(scores['best_threshold'])}, a threshold chosen on this very split"
        rows.append((at, scores["accuracy_at_best_threshold"]))
    return rows


def mistakes(scored: Scored) -> list[dict[str, Any]]:
    """The wrong answers with the highest probability, the highest first: sentences, label, answered, confidence.

    Of scores those that are furthest off; their confidence is how far.
    """
    split, answers, names = scored
    if answers.regression:
        confidence = np.abs(answers.errors)
    else:
        confidence = np.where(answers.right, -1.0, answers.probabilities.max(-1))
    worst = [int(place) for place in np.argsort(-confidence, kind="stable")[:MISTAKES] if confidence[place] >= 0]
    wanted = set(worst)
    pairs = {place: pair for place, pair in enumerate(iterate(split.pairs)) if place in wanted}
    found = []
    for place in worst:
        pair = {key: pairs[place][key] for key in ("sentence1", "sentence2")}
        if answers.regression:
            said = {"label": f"{pairs[place]['label']:g}", "answered": f"{answers.scores[place]:.4f}"}
        else:
            said = {"label": names[answers.labels[place]], "answered": names[answers.logits[place].argmax()]}
        found.append({**pair, **said, "confidence": confidence[place]})
    return found


def examples(scored: Scored, each: int = 3) -> list[list[str]]:
    """The sentences of the first rows of a split, so many of each label; of scores as many as of two labels."""
    regression = scored.answers.regression
    left = {0: 2 * each} if regression else dict.fromkeys(range(min(len(scored.names), 4)), each)
    found: list[list[str]] = []
    for pair in iterate(scored.split.pairs):
        label = 0 if regression else pair["label"]
        if left.get(label, 0):
            left[label] -= 1
            found.append([pair[key] for key in ("sentence1", "sentence2") if pair[key] is not None])
        if not any(left.values()):
            break
    return found
