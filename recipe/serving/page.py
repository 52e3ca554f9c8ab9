"""The page on which a saved model is tried, in Chinese and English side by side. Gradio has to be imported first."""

import base64
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from recipe.errors import Damaged, RunError, UserError
from recipe.evaluation.metrics import by_name, decimals
from recipe.file_names import FIGURES, PREDICTIONS, RESULTS
from recipe.process.text import markdown, one_line
from recipe.reporting.model_card import SCORES, Scored, examples, mistakes
from recipe.serving.asking import SHOWN, Asked, ask_file, ask_pair
from recipe.serving.space import SHOWN as PART
from recipe.system.json_files import read_json

# Fonts that a system has: the page asks no other server for any.
FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "sans-serif"]
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}


class Tried(NamedTuple):
    """What the page is about.

    Attributes:
        validation: the answers to the run's validation split, where it can be read.
        folder: where answers to files are put.
    """

    asked: Asked
    validation: Scored | None
    folder: Path


def build_page(tried: Tried) -> gr.Blocks:
    """The page, its handlers attached."""
    name = Path(tried.asked.arguments.model.name).resolve().name
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {markdown(name)}\n{markdown(' / '.join(tried.asked.names))}")
        with gr.Tab("提问 · Ask"):
            _pair_tab(tried)
        with gr.Tab("文件 · File"):
            _file_tab(tried)
        largest = "最大误差 · Largest errors" if tried.asked.regression else "最有把握的错误 · Most confident mistakes"
        with gr.Tab(largest):
            _mistakes_tab(tried)
        with gr.Tab("训练结果 · The run"):
            _run_tab(Path(tried.asked.arguments.model.name))
    return page


def _pair_tab(tried: Tried) -> None:
    titles = ["第一句 · sentence 1", "第二句 · sentence 2"] if tried.asked.in_pairs else ["句子 · sentence"]
    orders = ["回答 · answer", "调换顺序 · swapped"] if tried.asked.in_pairs else ["回答 · answer"]
    with gr.Row():
        inputs = [gr.Textbox(label=title, lines=2, max_lines=6, elem_id=f"s{n}") for n, title in enumerate(titles, 1)]
    button = gr.Button("判断 · Answer", variant="primary", elem_id="ask")
    said = gr.Markdown(elem_id="said")
    kind = gr.Number if tried.asked.regression else gr.Label
    with gr.Row():
        labels = [kind(label=title, elem_id=f"order{n}") for n, title in enumerate(orders, 1)]
    button.click(lambda *texts: _said_of_pair(tried.asked, texts), inputs, [said, *labels], **ONE_AT_A_TIME)
    if tried.validation is not None:
        label = "验证集的例子 · from the validation split"
        gr.Examples(examples(tried.validation), inputs, label=label, cache_examples=False, api_visibility="private")


def _said_of_pair(asked: Asked, texts: Sequence[str]) -> list[Any]:
    """What is said of a pair, and each order's probabilities by label, or score."""
    if not all(text and text.strip() for text in texts):
        return ["请填写每一句。 Please type every sentence.", *[None for _ in texts]]
    found = _or_sentence(lambda: ask_pair(asked, texts[0], texts[1] if len(texts) > 1 else None))
    if isinstance(found, str):
        return [found, *[None for _ in texts]]
    told = [f"{asked.names[each.argmax()]} {each.max():.6f}" for each in found.orders]
    alike = len({int(each.argmax()) for each in found.orders}) == 1
    parts = [f"**{markdown(told[0])}**"]
    if len(told) > 1:
        parts.append(f"调换 · swapped: {markdown(told[1])}")
    if len(told) > 1 and asked.regression:
        parts.append(f"平均 · mean: {np.mean(found.orders):.6f}")
    elif len(told) > 1:
        parts.append("两序一致 · both orders agree" if alike else "**两序不一致 · the orders disagree**")
    if found.cut:
        parts.append(f"过长，只读了 {asked.arguments.data.max_length} 个词元 · too long: cut to as many tokens")
    if asked.regression:
        return [" — ".join(parts), *(round(float(each[0]), 6) for each in found.orders)]
    return [" — ".join(parts), *(dict(zip(asked.names, each.tolist(), strict=True)) for each in found.orders)]


def _file_tab(tried: Tried) -> None:
    kinds = ".json .jsonl .csv .tsv .parquet, .gz"
    columns = markdown(tried.asked.arguments.data.text_column_names)
    gr.Markdown(f"{kinds}, UTF-8; 列名 · columns: {columns}. 标签可省略 · labels may be left out.")
    given = gr.File(label="上传 · upload", height=140, elem_id="upload")
    said = gr.Markdown(elem_id="file-said")
    answered = gr.File(label="下载全部回答 · all answers", height=100, interactive=False, elem_id="answers")
    keys = [*(["sentence1", "sentence2"] if tried.asked.in_pairs else ["sentence1"]), "prediction"]
    keys += [] if tried.asked.regression else ["probability"]
    table = gr.Dataframe(headers=keys, interactive=False, wrap=True, label=f"前 {SHOWN} 行 · the first {SHOWN}")
    given.upload(lambda path: _said_of_file(tried, path, keys), given, [said, answered, table], **ONE_AT_A_TIME)


def _said_of_file(tried: Tried, path: str, keys: Sequence[str]) -> tuple[str, str | None, list[list[Any]]]:
    """What is said of a file, where its answers are, and the first of them."""
    target = Path(tempfile.mkdtemp(dir=tried.folder)) / PREDICTIONS
    found = _or_sentence(lambda: ask_file(tried.asked, Path(path), target))
    if isinstance(found, str):
        return found, None, []
    rows = [json.loads(line) for line in found.first]
    return markdown("; ".join(found.notes)), str(target), [[row[key] for key in keys] for row in rows]


def _mistakes_tab(tried: Tried) -> None:
    scored = tried.validation
    if scored is None:
        gr.Markdown("验证集不在这里 · the validation split is not here", elem_id="no-mistakes")
        return
    worst, source = mistakes(scored), markdown(scored.split.source)
    if Path(tried.asked.arguments.data.validation_file or "").name == PART:  # mistakes above all
        said = "验证集的一部分 · a part of the validation split"
    elif scored.answers.regression:
        said = f"平均绝对误差 · mean absolute error {np.abs(scored.answers.errors).mean():.4f}"
    else:
        said = f"{np.sum(~scored.answers.right):,} / {scored.split.rows:,} 错 · wrong"
    gr.Markdown(f"{source}: {said}", elem_id="wrong")
    keys = [*(["sentence1", "sentence2"] if tried.asked.in_pairs else ["sentence1"]), "label", "answered"]
    rows = [[*(row[key] for key in keys), f"{row['confidence']:.4f}"] for row in worst]
    last = "error" if scored.answers.regression else "probability"
    gr.Dataframe(rows, headers=[*keys, last], interactive=False, wrap=True, max_height=900, elem_id="mistakes")


def _run_tab(folder: Path) -> None:
    """The run's scores and figures; the latter within the page, so that no file is served."""
    try:
        scores = by_name(read_json(folder / RESULTS, {f"eval_{name}?": (float, None) for name in SCORES}))
        rows = [[title, decimals(scores[name])] for name, title in SCORES.items() if name in scores]
        gr.Dataframe(rows, headers=["指标 · score", "验证集 · validation"], interactive=False, elem_id="scores")
    except Damaged as damage:
        gr.Markdown(f"没有结果 · no results: {markdown(str(damage))}")
    found = [base64.b64encode((folder / name).read_bytes()) for name in FIGURES if (folder / name).is_file()]
    images = "".join(f'<img style="max-width:100%" src="data:image/png;base64,{each.decode()}">' for each in found)
    gr.HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1em">{images}</div>', elem_id="figures")


def _or_sentence(ask: Callable[[], Any]) -> Any:
    """What `ask` answers, or a sentence on why it does not."""
    try:
        return ask()
    except (UserError, RunError, OSError, MemoryError) as error:
        return f"读不了 · cannot be answered: {markdown(one_line(error) or 'out of memory')}"
