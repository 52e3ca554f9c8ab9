"""The model card: README.md with its figures, which can be published as it is."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from recipe.arguments import RecipeArguments
from recipe.arithmetic import versions
from recipe.data import Split, iterate
from recipe.figures import draw_confusion, draw_learning_curve, draw_reliability
from recipe.file_names import CARD, FIGURES
from recipe.metrics import by_name
from recipe.prediction import Answers
from recipe.reporting import RunReport, format_plan, format_threshold, peak_memory
from recipe.text import fenced, markdown, without_secrets

MISTAKES = 20


def write_card(
    folder: Path,
    arguments: RecipeArguments,
    report: RunReport,
    log_history: Sequence[dict[str, Any]],
    split: Split | None,
    answers: Answers | None,
    names: Sequence[str],
) -> None:
    """Write README.md and its figures into `folder`.

    Args:
        split, answers: the validation split and the best model's answers to it; None where there was none.
        names: the model's labels.
    """
    draw_learning_curve(log_history, folder / FIGURES[0])
    parts = [_metadata(arguments, report), _head(arguments, report), _training(arguments, report)]
    if split is not None and answers is not None:
        probabilities = answers.probabilities
        draw_confusion(report.metrics["eval_confusion_matrix"], names, folder / FIGURES[1])
        draw_reliability(probabilities, answers.labels, report.metrics["eval_ece"], folder / FIGURES[2])
        parts += [_scores(report, split), _mistakes(split, probabilities, answers, names)]
    parts.append(_reproduction(report))
    (folder / CARD).write_text("\n".join(parts), encoding="utf-8")


def _name(arguments: RecipeArguments) -> str:
    return arguments.training.folder.resolve().name


def _metadata(arguments: RecipeArguments, report: RunReport) -> str:
    """The Hub's metadata block; a local path is no repository, so it is not named as one."""
    base, data = arguments.model.name, arguments.data
    local = any([data.data_dir, data.train_file])
    scores = [("accuracy", "eval_accuracy"), ("f1", "eval_f1")] if report.metrics else []
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Sentence pair classification",
            dataset_type="local" if local else data.dataset_name,
            dataset_name="sentence pairs" if local else data.dataset_config_name or data.dataset_name,
            dataset_split="validation",
            metric_type=kind,
            metric_value=round(report.metrics[key], 4),
        )
        for kind, key in scores
    ]
    card = ModelCardData(
        language="zh",
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=None if Path(base).exists() else base,
        datasets=None if local else [data.dataset_name],
        metrics=["accuracy", "f1"],
        tags=["sentence-pair-classification", "freeze-fine-tuning"],
        model_name=_name(arguments) if results else None,
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---\n"


def _head(arguments: RecipeArguments, report: RunReport) -> str:
    base = Path(arguments.model.name).name if Path(arguments.model.name).exists() else arguments.model.name
    share = report.plan.trainable / report.plan.parameters
    lines = [f"# {markdown(_name(arguments))}", ""]
    lines.append(
        f"**{markdown(base)}**, fine-tuned to classify Chinese sentence pairs with {1 - share:.1%} of its parameters "
        "frozen."
    )
    if report.metrics:
        told = by_name(report.metrics)
        beats = told["accuracy"] > told["majority_baseline"] and told["majority_p_value"] < 0.05
        lines.append(
            f"On the validation split it is right in **{told['accuracy']:.1%}** of pairs (95 % interval "
            f"{told['accuracy_low']:.1%} to {told['accuracy_high']:.1%}); always answering the majority label is right "
            f"in {told['majority_baseline']:.1%} (McNemar's test on the same pairs, p {told['majority_p_value']:.2g})."
            + ("" if beats else " **It is not shown to beat that.**")
        )
    code = ["from transformers import pipeline", ""]
    name = json.dumps(_name(arguments), ensure_ascii=False)
    code.append(f'classify = pipeline("text-classification", {name}, trust_remote_code=True)')
    code.append('classify({"text": "花呗怎么提前还款", "text_pair": "花呗可以提前还吗"})')
    return "\n".join([*lines, "", fenced("\n".join(code), "python"), ""])


def _training(arguments: RecipeArguments, report: RunReport) -> str:
    layers = sum(row.module.startswith("layer") for row in report.plan.rows)
    return f"## What was frozen\n\n{fenced(format_plan(report.plan, layers))}\n\n![learning curve]({FIGURES[0]})\n"


def _scores(report: RunReport, split: Split) -> str:
    told = by_name(report.metrics)
    rows = [("accuracy", told["accuracy"]), ("majority baseline", told["majority_baseline"]), ("loss", told["loss"])]
    rows += [("F1", told["f1"]), ("MCC", told["mcc"]), ("ROC AUC", told["roc_auc"])]
    rows += [("average precision", told["average_precision"]), ("expected calibration error", told["ece"])]
    if "best_threshold" in told:
        at = f"accuracy at {format_threshold(told['best_threshold'])}, a threshold chosen on these very pairs"
        rows.append((at, told["accuracy_at_best_threshold"]))
    lines = [f"## Scores on {split.rows:,} validation pairs", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {'-' if value is None else format(value, '.4f')} |" for name, value in rows]
    lines += ["", f"![confusion matrix]({FIGURES[1]}) ![reliability]({FIGURES[2]})", ""]
    return "\n".join(lines)


def _mistakes(split: Split, probabilities: np.ndarray, answers: Answers, names: Sequence[str]) -> str:
    """The wrong answers with the highest probability."""
    confidence = np.where(answers.right, -1.0, probabilities.max(-1))
    worst = [int(place) for place in np.argsort(-confidence, kind="stable")[:MISTAKES] if confidence[place] >= 0]
    wanted = set(worst)
    pairs = {place: pair for place, pair in enumerate(iterate(split.pairs)) if place in wanted}
    lines = [f"## The {len(worst)} most confident mistakes", "", "| sentence 1 | sentence 2 | label | answered |"]
    lines.append("|---|---|---|---|")
    for place in worst:
        pair, answered = pairs[place], markdown(names[int(probabilities[place].argmax())])
        sentences = (markdown(pair[key]) for key in ("sentence1", "sentence2"))
        label = markdown(names[int(answers.labels[place])])
        lines.append(f"| {' | '.join(sentences)} | {label} | {answered} ({confidence[place]:.1%}) |")
    return "\n".join([*lines, ""])


def _reproduction(report: RunReport) -> str:
    identity = report.identity
    lines = ["## How it was made", "", fenced(shlex.join(["python", *without_secrets(sys.argv)]), "bash"), ""]
    seconds = [report.encode_seconds, report.train_seconds - report.eval_seconds, report.eval_seconds]
    memory = f"{peak_memory() / 1e9:.2f} GB"
    if report.gpu_bytes:
        memory += f", {report.gpu_bytes / 1e9:.2f} GB on the GPU"
    lines.append(
        f"Encoding the frozen prefix took {seconds[0]:.0f} s, training {seconds[1]:.0f} s, evaluating "
        f"{seconds[2]:.0f} s; peak memory {memory}."
    )
    lines += ["", "| | sha256 |", "|---|---|"]
    lines += [f"| {name} data | `{value}` |" for name, value in identity.get("data", {}).items()]
    lines += [f"| {part} weights, as loaded | `{value}` |" for part, value in identity.get("weights", {}).items()]
    lines.append(f"| model.safetensors | `{report.model_sha256}` |")
    lines += ["", ", ".join(f"{name} {value}" for name, value in versions().items()), ""]
    return "\n".join(lines)
