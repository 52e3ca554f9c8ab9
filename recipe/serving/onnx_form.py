"""A model as ONNX: in float32, and with 8-bit weights by onnxruntime's dynamic quantisation."""

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recipe.errors import UserError
from recipe.model.modeling import BertForPairwiseCLS

ONNX, INT8, SCRIPT = "model.onnx", "model_int8.onnx", "serve.py"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Logits(nn.Module):
    """The model as a function from tensors to one tensor."""

    def __init__(self, model: BertForPairwiseCLS) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Logits (batch, labels)."""
        return self.model(input_ids, attention_mask, token_type_ids).logits


class Answered(NamedTuple):
    """A form's logits for all batches, (pairs, labels), and how many pairs a second it took."""

    logits: np.ndarray
    speed: float


def require_onnx() -> None:
    """Check that what exporting needs is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("export needs ONNX: pip install -c constraints.txt -e '.[onnx]', or make export") from error


def write_onnx(model: BertForPairwiseCLS, path: Path) -> None:
    """Write the model in float32, batch and length free."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of each operator that no one uses
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


def write_int8(source: Path, path: Path) -> None:
    """Write an ONNX model with 8-bit matrices, a scale for each column; activations are quantised as it runs.

    Of the 8 bits 7 are used: a processor without VNNI adds two products in 16 bits, which 8 overflow in silence.
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "reduce-range"
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it recommends a pre-processing that changes nothing here
    quantize_dynamic(str(source), str(path), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)


def answer_by_onnx(path: Path, batches: Sequence[dict[str, Any]]) -> Answered:
    """What an ONNX model answers, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    start = time.perf_counter()
    found = [session.run(None, {name: batch[name].numpy() for name in INPUTS})[0] for batch in batches]
    seconds, logits = time.perf_counter() - start, np.concatenate(found)
    return Answered(logits, len(logits) / seconds)


def answer_by_torch(model: nn.Module, batches: Sequence[dict[str, Any]]) -> Answered:
    """What a torch model with logits answers."""
    start = time.perf_counter()
    with torch.inference_mode():
        found = [model(**{name: batch[name] for name in INPUTS}).logits.numpy() for batch in batches]
    seconds, logits = time.perf_counter() - start, np.concatenate(found)
    return Answered(logits, len(logits) / seconds)
