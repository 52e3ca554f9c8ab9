"""A saved model in forms that go to work without this recipe, each checked against it on real pairs: make export.

    python -m recipe.serving.export --model_name_or_path outputs/freeze

Below output_dir: onnx/ with float32 and 8-bit models and a script that needs neither torch nor transformers; stock/,
which transformers and sentence-transformers' CrossEncoder load without this recipe's code.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from recipe.arguments import DataArguments, RecipeArguments
from recipe.batches.tokenization import tokenize
from recipe.batches.tokens import read_tokens
from recipe.cache.collator import collate
from recipe.command_line.parsing import parse
from recipe.data.opening import limited, require_split
from recipe.data.splits import Split, iterate_batches, unit_of
from recipe.errors import RunError
from recipe.model.loading import check_labels, load_fine_tuned
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.exiting import exit_on_error
from recipe.process.progress import say
from recipe.reporting.scores import format_int8
from recipe.serving.onnx_form import (
    INT8,
    ONNX,
    SCRIPT,
    Answered,
    answer_by_onnx,
    answer_by_torch,
    require_onnx,
    write_int8,
    write_onnx,
)
from recipe.serving.stock_form import as_stock, write_stock
from recipe.system.files import publish, staging_folder
from recipe.system.folder_lock import locked

PAIRS = 1000  # that forms are compared on, logit by logit: about so many, as whole batches
TOLERANCES = {ONNX: 1e-4, "stock": 1e-5}


class Source(NamedTuple):
    """The model that is exported, and what its forms are compared on.

    Attributes:
        batches: all of the split.
        checked: those batches whose logits are compared.
        mine: the model's answers to `checked`.
    """

    arguments: RecipeArguments
    model: BertForPairwiseCLS
    tokenizer: PreTrainedTokenizerBase
    batches: list[dict[str, Tensor]]
    checked: list[dict[str, Tensor]]
    mine: Answered


class Exported(NamedTuple):
    """What was found out of each form: its largest difference of a logit, and pairs a second."""

    differences: dict[str, float]
    speeds: dict[str, float]


def export(arguments: RecipeArguments) -> Exported:
    """Write the model's other forms into output_dir/onnx and output_dir/stock.

    Raises:
        UserError: the extra `onnx` is not installed, or the model or the data are not right.
        RunError: a form does not answer as the model does; it is not written then.
    """
    require_onnx()
    args = arguments.training
    model, tokenizer = load_fine_tuned(arguments)
    model.cpu().eval()
    split = require_split(arguments.data, arguments.data.eval_split or "validation")
    check_labels(model, split, arguments.model.model_name_or_path)
    batches = _batches(arguments, tokenizer, split)
    checked = _first(batches, PAIRS)
    mine = answer_by_torch(model, checked)
    source, found = Source(arguments, model, tokenizer, batches, checked, mine), Exported({}, {"torch": mine.speed})
    try:
        _export_stock(source, found)
        int8 = _export_onnx(source, found)
    except OSError as error:
        raise RunError(f"{args.folder}: cannot be written: {error.strerror or error}") from error
    sizes = [(args.folder / "onnx" / name).stat().st_size / 1e6 for name in (ONNX, INT8)]
    say(args, f"onnx            {args.folder / 'onnx'}: {ONNX} {sizes[0]:,.1f} MB, {INT8} {sizes[1]:,.1f} MB")
    script = shlex.quote(str(args.folder / "onnx" / SCRIPT))
    say(args, f"without torch   python {script} < pairs.jsonl  (--int8 for the small one)")
    if "stock" in found.differences:
        say(args, f"stock           {args.folder / 'stock'}: transformers and CrossEncoder load it without remote code")
    else:
        old = f"; {args.folder / 'stock'} is of an earlier model" if (args.folder / "stock").exists() else ""
        say(args, f"stock           not written: {model.config.num_tails} tails have no place in a stock BERT{old}")
    parts = ", ".join(f"{name} within {value:.1e}" for name, value in found.differences.items())
    what = "; ".join([split.source, *limited(arguments.data, split), *split.left_out()])
    say(args, f"checked         logits of {len(mine.logits):,} {split.unit} of {what}: {parts}")
    speeds = ", ".join(f"{name} {value:,.0f}" for name, value in found.speeds.items())
    say(args, f"{split.unit} a second  {speeds}")
    say(args, int8)
    return found


def _export_stock(source: Source, found: Exported) -> None:
    """Write the stock form, which has a place for one tail."""
    if source.model.other_tails:
        return
    stock, folder = as_stock(source.model), source.arguments.training.folder / "stock"
    _compare("stock", answer_by_torch(stock, source.checked), source.mine, found)
    with locked(folder), staging_folder(folder) as staging:
        write_stock(stock, source.tokenizer, staging)
        publish(staging, folder, last=("model.safetensors",))


def _export_onnx(source: Source, found: Exported) -> str:
    """Write both ONNX models; what to say of the small one's accuracy."""
    folder = source.arguments.training.folder / "onnx"
    with locked(folder), staging_folder(folder) as staging:
        write_onnx(source.model, staging / ONNX)
        _compare(ONNX, answer_by_onnx(staging / ONNX, source.checked), source.mine, found)
        write_int8(staging / ONNX, staging / INT8)
        _compare(INT8, answer_by_onnx(staging / INT8, source.checked), source.mine, found)
        full, int8 = (answer_by_onnx(staging / name, source.batches) for name in (ONNX, INT8))
        source.model.config.save_pretrained(staging)
        source.tokenizer.save_pretrained(staging)
        shutil.copy(Path(__file__).with_name(SCRIPT), staging / SCRIPT)
        _add_reading(staging / "config.json", source.arguments.data)
        publish(staging, folder, last=(ONNX,))
    labels = np.concatenate([batch["labels"].numpy() for batch in source.batches])
    return format_int8(full.logits, int8.logits, labels, unit_of(source.arguments.data))


def _add_reading(path: Path, data: DataArguments) -> None:
    """Tell the script what a row is, and how many tokens it may have, which is the run's and not the model's."""
    reading = {"max_length_of_run": data.max_length, "unit_of_run": unit_of(data)}
    config = json.loads(path.read_text(encoding="utf-8")) | reading
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _compare(name: str, theirs: Answered, mine: Answered, found: Exported) -> None:
    """Note how far a form is off, and how fast it is.

    Raises:
        RunError: a logit is further off than it may be.
    """
    difference = float(np.abs(theirs.logits - mine.logits).max())
    if difference > TOLERANCES.get(name, float("inf")):
        raise RunError(
            f"{name}: a logit differs by {difference:.1e} from the model's; at most {TOLERANCES[name]:.0e} may"
        )
    found.differences[name], found.speeds[name] = difference, theirs.speed


def _first(batches: Sequence[dict[str, Tensor]], pairs: int) -> list[dict[str, Tensor]]:
    """Batches from all lengths with about so many pairs, at least one batch."""
    total = sum(len(batch["labels"]) for batch in batches)
    return list(batches[:: -(-total // pairs)])


def _batches(arguments: RecipeArguments, tokenizer: PreTrainedTokenizerBase, split: Split) -> list[dict[str, Any]]:
    """The split in batches of like length, (batch, tokens)."""
    tokens = read_tokens(iterate_batches(tokenize(split.pairs, tokenizer, arguments.data.max_length)))
    sorted_pairs, size = tokens.sorted_pairs(), arguments.training.per_device_eval_batch_size
    found = []
    for start in range(0, len(sorted_pairs), size):
        examples = [sorted_pairs[place] for place in range(start, min(start + size, len(sorted_pairs)))]
        found.append(collate(examples, int(tokenizer.pad_token_id or 0)))
    return found


def main() -> None:
    """Export from the command line; the flags are those of run_freeze.py --do_eval."""
    export(parse(["--do_eval", *sys.argv[1:]]))


if __name__ == "__main__":
    exit_on_error(main)
