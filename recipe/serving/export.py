"""A saved model as ONNX, checked against itself on real pairs, in a folder that the Hub accepts: make export.

python -m recipe.serving.export --model_name_or_path outputs/freeze
"""

import contextlib
import io
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from recipe.arguments import RecipeArguments
from recipe.batches.tokenization import tokenize
from recipe.batches.tokens import SortedPairs, read_tokens
from recipe.cache.collator import collate
from recipe.command_line.parsing import parse
from recipe.data.opening import require_split
from recipe.data.splits import iterate_batches
from recipe.errors import RunError, UserError
from recipe.model.loading import check_labels, load_fine_tuned
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.exiting import exit_on_error
from recipe.process.progress import say
from recipe.system.files import publish, staging_folder
from recipe.system.folder_lock import locked

ONNX, INPUTS = "model.onnx", ("input_ids", "attention_mask", "token_type_ids")
PAIRS, TOLERANCE = 1000, 1e-4


class Logits(nn.Module):
    """The model as a function from tensors to one tensor."""

    def __init__(self, model: BertForPairwiseCLS) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Logits (batch, labels)."""
        return self.model(input_ids, attention_mask, token_type_ids).logits


class Agreement(NamedTuple):
    """What the check found: pairs, largest difference of a logit, and pairs a second of both."""

    pairs: int
    difference: float
    model_speed: float
    onnx_speed: float


def export(arguments: RecipeArguments) -> Agreement:
    """Write model.onnx beside copies of tokenizer, configuration and card into output_dir/onnx.

    Raises:
        UserError: the extra `onnx` is not installed, or the model or the data are not right.
        RunError: the exported model does not answer as the model does; nothing is written then.
    """
    _require_onnx()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of each operator that no one uses
    args = arguments.training
    model, tokenizer = load_fine_tuned(arguments)
    model.cpu().eval()
    split = require_split(arguments.data, arguments.data.eval_split or "validation")
    check_labels(model, split, arguments.model.model_name_or_path)
    batches = list(_batches(arguments, tokenizer, split.pairs.take(min(PAIRS, split.rows))))
    folder = args.folder / "onnx"
    try:
        with locked(folder), staging_folder(folder) as staging:
            _write_onnx(model, staging / ONNX)
            agreement = _check(model, staging / ONNX, batches)
            model.config.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
            publish(staging, folder, last=(ONNX,))
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from error
    size = (folder / ONNX).stat().st_size / 1e6
    say(args, f"onnx            {folder / ONNX}, {size:,.1f} MB; batch and length are free")
    say(args, f"checked         {agreement.pairs:,} pairs of {split.source}: logits within {agreement.difference:.1e}")
    speeds = f"{agreement.onnx_speed:,.0f} pairs a second by onnxruntime, {agreement.model_speed:,.0f} by torch"
    say(args, f"speed           {speeds}")
    return agreement


def _require_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("export needs ONNX: pip install -c constraints.txt -e '.[onnx]', or make export") from error


def _batches(arguments: RecipeArguments, tokenizer: PreTrainedTokenizerBase, pairs: Any) -> Iterator[dict[str, Tensor]]:
    """Batches of like length, (batch, tokens)."""
    tokens = read_tokens(iterate_batches(tokenize(pairs, tokenizer, arguments.data.max_length)))
    sorted_pairs, size = SortedPairs(tokens.lengths, tokens.example), arguments.training.per_device_eval_batch_size
    for start in range(0, len(sorted_pairs), size):
        examples = [sorted_pairs[place] for place in range(start, min(start + size, len(sorted_pairs)))]
        yield collate(examples, int(tokenizer.pad_token_id or 0))


def _write_onnx(model: BertForPairwiseCLS, path: Path) -> None:
    examples = tuple(torch.ones(2, 7, dtype=torch.long) for _ in INPUTS)  # one tensor thrice would be one input
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # a report of every exporter pass
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(model).eval(),
            examples,
            str(path),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_shapes=(free, free, free),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _check(model: BertForPairwiseCLS, path: Path, batches: list[dict[str, Tensor]]) -> Agreement:
    """Both models on the same batches.

    Raises:
        RunError: a logit differs by more than 1e-4.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pairs, difference, seconds = 0, 0.0, [0.0, 0.0]
    for batch in batches:
        inputs = {name: batch[name] for name in INPUTS}
        start = time.perf_counter()
        with torch.inference_mode():
            expected = model(**inputs).logits.numpy()
        seconds[0] += time.perf_counter() - start
        start = time.perf_counter()
        (logits,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        seconds[1] += time.perf_counter() - start
        difference = max(difference, float(np.abs(logits - expected).max()))
        pairs += len(logits)
    if difference > TOLERANCE:
        raise RunError(
            f"{path.name}: a logit differs by {difference:.1e} from the model's; at most {TOLERANCE:.0e} may"
        )
    return Agreement(pairs, difference, pairs / seconds[0], pairs / seconds[1])


def main() -> None:
    """Export from the command line; the flags are those of run_freeze.py --do_eval."""
    export(parse(["--do_eval", *sys.argv[1:]]))


if __name__ == "__main__":
    exit_on_error(main)
