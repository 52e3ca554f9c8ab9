"""Ways to run the frozen prefix: each makes, from its float32 layers, a function from embeddings to states."""

import copy
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recipe.model.modeling import BertForPairwiseCLS

DEPTH = 10
Run = Callable[[Tensor], Tensor]  # what the embeddings give -> states, both (pairs, tokens, hidden)


class Prefix(nn.Module):
    """The frozen layers, called as the encoding pass calls them."""

    def __init__(self, model: BertForPairwiseCLS) -> None:
        super().__init__()
        self.layers = model.bert.encoder.layer[:DEPTH]

    def forward(self, states: Tensor) -> Tensor:
        """States of pairs of one length, in the type that they come in."""
        for layer in self.layers:
            states = layer(states, None)
        return states


def _width(prefix: Prefix) -> int:
    """The hidden size."""
    return int(prefix.layers[0].output.dense.out_features)


def in_half(prefix: Prefix, wrap: Callable[[Prefix], Callable[[Tensor], Tensor]] = lambda whole: whole) -> Run:
    """The prefix in bfloat16, as the encoding pass runs it, or what `wrap` makes of that."""
    call = wrap(copy.deepcopy(prefix).to(torch.bfloat16))
    return lambda states: call(states.to(torch.bfloat16))


def _inductor(prefix: Prefix, _: Tensor) -> Run:
    return in_half(prefix, lambda half: torch.compile(half, dynamic=False))


def _inductor_freezing(prefix: Prefix, _: Tensor) -> Run:
    return in_half(prefix, lambda half: torch.compile(half, dynamic=False, options={"freezing": True}))


def _zentorch(prefix: Prefix, _: Tensor) -> Run:
    import zentorch  # noqa: F401

    return in_half(prefix, lambda half: torch.compile(half, dynamic=False, backend="zentorch"))


def _openvino(prefix: Prefix, calibration: Tensor | None = None) -> Run:
    import openvino

    graph = openvino.convert_model(copy.deepcopy(prefix), example_input=torch.zeros(2, 7, _width(prefix)))
    if calibration is not None:
        import nncf

        graph = nncf.quantize(graph, nncf.Dataset(calibration.split(4)), model_type=nncf.ModelType.TRANSFORMER)
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.compile_model(graph, "CPU", settings)
    return lambda states: torch.from_numpy(compiled(states.numpy())[0].copy())


def _onnxruntime_int8(prefix: Prefix, _: Tensor) -> Run:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        whole, small = f"{folder}/whole.onnx", f"{folder}/int8.onnx"
        example = (torch.zeros(2, 7, _width(prefix)),)
        torch.onnx.export(prefix, example, whole, dynamic_shapes=(free,), dynamo=True, external_data=False)
        quantize_dynamic(whole, small, per_channel=True, weight_type=QuantType.QInt8)
        session = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda states: torch.from_numpy(session.run(None, {name: states.numpy()})[0])


def _torchao_int8(prefix: Prefix, _: Tensor) -> Run:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    half = copy.deepcopy(prefix).to(torch.bfloat16)
    quantize_(half, Int8DynamicActivationInt8WeightConfig())
    compiled = torch.compile(half, dynamic=False, options={"freezing": True})
    return lambda states: compiled(states.to(torch.bfloat16))


TODAY = "eager bfloat16 (today's)"
RIVALS: dict[str, Callable[[Prefix, Tensor], Run]] = {
    "eager float32": lambda prefix, _: prefix,
    TODAY: lambda prefix, _: in_half(prefix),
    "torch.compile bfloat16": _inductor,
    "torch.compile bfloat16, freezing": _inductor_freezing,
    "zentorch bfloat16": _zentorch,
    "OpenVINO bfloat16": lambda prefix, _: _openvino(prefix),
    "OpenVINO int8 (nncf)": _openvino,
    "onnxruntime int8, dynamic": _onnxruntime_int8,
    "torchao int8, dynamic, compiled": _torchao_int8,
}
