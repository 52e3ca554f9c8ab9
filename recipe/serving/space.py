"""A Hugging Face Space: a folder with the page of a saved model, the model, this recipe, and what it all needs."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import recipe
from recipe.arguments import DataArguments, RecipeArguments
from recipe.data.splits import iterate
from recipe.errors import UserError
from recipe.file_names import CODE, FIGURES, MODEL, RESULTS, RUN
from recipe.process.progress import say, told_while_it_lasts
from recipe.process.signals import stop_requests
from recipe.reporting.model_card import Scored, examples, mistakes
from recipe.reporting.outputs import check_writable
from recipe.rows.columns import Columns
from recipe.serving.asking import ask_validation, load_asked
from recipe.system.files import whole_folder, write_json, write_text

FILES = ("config.json", MODEL, *CODE, "tokenizer.json", "tokenizer_config.json", RESULTS, *FIGURES)
SHOWN = "mistakes-and-examples.jsonl"
# What says where data are, or how much of them is read; a visitor's file is read by all the others.
PLACES = {"data_dir", "train_file", "validation_file", "test_file", "dataset_name", "dataset_config_name", "eval_split"}
PLACES |= {"max_train_samples", "max_eval_samples", "streaming", "shuffle_buffer_size"}
CPU_WHEELS = "--extra-index-url https://download.pytorch.org/whl/cpu"

APP = '''"""The page of a fine-tuned model; Spaces run this file, and so does: python app.py"""

import os
import sys
from pathlib import Path

from recipe.process.exiting import end_at_once, exit_on_error

end_at_once()  # by Ctrl-C, while the libraries are imported

from recipe.serving.app import main  # noqa: E402

HERE = Path(__file__).resolve().parent
MODEL, SHOWN = HERE / "model" / {name}, HERE / {shown}
WORDS = ["--model_name_or_path", str(MODEL)]
WORDS += ["--validation_file", str(SHOWN)] if SHOWN.is_file() else ["--data_dir", str(MODEL)]
if "SPACE_ID" in os.environ:  # on Spaces, which look for it there
    WORDS += ["--server_name", "0.0.0.0", "--server_port", "7860"]

if __name__ == "__main__":
    sys.argv[1:1] = WORDS
    exit_on_error(main)
'''

README = """---
title: {name}
emoji: 🧊
colorFrom: blue
colorTo: indigo
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
---

The page of a fine-tuned BERT, written by `python -m recipe.serving.app --space`. `python app.py` shows it here, and
onto the Hub it comes by

    hf upload OWNER/NAME . . --type space

`model/` is the model with its scores and figures, `recipe/` the code (Apache-2.0). {shown}
`requirements.txt` asks for PyTorch without CUDA, as free Spaces have no GPU; its first line is what does so.
"""


def write_space(arguments: RecipeArguments, name: str, sentences: bool) -> None:
    """Write the folder `name`, whole or not at all.

    Args:
        sentences: whether those that the page shows of the validation split go along.

    Raises:
        UserError: it is not new, or cannot be made, the model is no run's folder, or its validation split cannot be
            read.
    """
    folder, run = Path(os.path.abspath(os.path.expanduser(name))), Path(arguments.model.name)
    if os.path.exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--space {name}: it is there, and not an empty folder; name another one")
    check_writable(folder, "--space")
    if not run.is_dir():
        raise UserError(f"--model_name_or_path {run}: the folder of a finished run is expected with --space")
    texts = {"requirements.txt": _requirements()}
    asked, data = load_asked(arguments), _reading(arguments.data)
    rows: list[dict[str, Any]] = []
    with stop_requests(), whole_folder(folder) as staging:
        if sentences:
            with told_while_it_lasts("answering the validation split"):
                scored = ask_validation(asked)
            rows = _shown_rows(scored, arguments.data)
            data |= {"label_names": None if len(scored.split.label_names) == 1 else scored.split.label_names}
            texts[SHOWN] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        title = run.resolve().name
        texts["README.md"] = _readme(title, len(rows))
        texts["app.py"] = APP.format(name=repr(title), shown=repr(SHOWN))
        for each, text in texts.items():
            write_text(staging / each, text)
        shutil.copytree(Path(recipe.__file__).parent, staging / "recipe", ignore=shutil.ignore_patterns("__pycache__"))
        _copy_run(run, staging / "model" / title, data, arguments)
    said = f"{len(rows)} rows of the validation split among it" if rows else "no sentences among it"
    say(arguments.training, f"space           {name}: {said}")
    commands = f"python {shlex.quote(name)}/app.py; hf upload OWNER/NAME {shlex.quote(name)} . --type space"
    say(arguments.training, f"next            {commands}")


def _shown_rows(scored: Scored, data: DataArguments) -> list[dict[str, Any]]:
    """The rows from which the page makes its examples and mistakes again, under the names that the run reads."""
    wanted = {tuple(texts) for texts in examples(scored)}
    wanted |= {_texts(row) for row in mistakes(scored)}
    columns, names = Columns.of(data), scored.split.label_names
    found: list[dict[str, Any]] = []
    for pair in iterate(scored.split.pairs):
        if _texts(pair) in wanted:
            label = names[pair["label"]] if len(names) > 1 else pair["label"]
            row = dict(zip(columns.sentences, _texts(pair), strict=True)) | {columns.label: label}
            found.append(row | ({data.id_column_name: len(found)} if data.id_column_name else {}))
    return found


def _texts(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in ("sentence1", "sentence2") if row[key] is not None)


def _reading(data: DataArguments) -> dict[str, Any]:
    """How the run reads rows, and nothing of where they are."""
    return {name: value for name, value in dataclasses.asdict(data).items() if name not in PLACES}


def _copy_run(run: Path, folder: Path, data: dict[str, Any], arguments: RecipeArguments) -> None:
    """The model, its scores and figures, and of run.json what a later command reads."""
    folder.mkdir(parents=True)
    for name in FILES:
        if (run / name).is_file():
            shutil.copy(run / name, folder)
    training = {name: getattr(arguments.training, name) for name in ("bf16", "per_device_eval_batch_size")}
    write_json(folder / RUN, {"arguments": {"data": data, "training": training}})


def _requirements() -> str:
    """What the page needs, at the versions that are installed here.

    Raises:
        UserError: not all of it is.
    """
    try:
        asked = [line for line in requires("freeze-recipe") or [] if "extra ==" not in line or 'extra == "app"' in line]
        names = [re.split(r"[^\w.-]", line)[0] for line in asked]
        pins = [f"{name}=={version(name).partition('+')[0]}" for name in names]
    except PackageNotFoundError as error:
        raise UserError(f"--space: {error.name} is not installed: pip install -c constraints.txt -e '.[app]'") from None
    return "\n".join([CPU_WHEELS, *pins, ""])


def _readme(title: str, rows: int) -> str:
    shown = f"`{SHOWN}` holds the {rows} rows of its validation split that the page shows." if rows else ""
    python = ".".join(map(str, sys.version_info[:2]))
    names = {"name": json.dumps(title, ensure_ascii=False), "gradio": version("gradio"), "python": python}
    return README.format(**names, shown=shown)
