import json

import numpy as np
import pytest

from recipe.command_line.parsing import parse
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import RunError, UserError
from recipe.serving import export as export_module
from recipe.serving.export import INPUTS, export
from recipe.system.folder_lock import locked


def test_onnx_answers_as_the_model_does_in_any_shape(arguments, tmp_path, monkeypatch, capsys):
    train(arguments("--prefix_cache=off"))
    run = tmp_path / "run"
    agreement = export(parse(["--do_eval", f"--model_name_or_path={run}", "--use_cpu"]))
    assert agreement.pairs == 30
    assert agreement.difference < 1e-5
    assert "30 pairs of" in capsys.readouterr().out
    assert {path.name for path in (run / "onnx").iterdir()} >= {"model.onnx", "config.json", "tokenizer.json"}
    assert json.loads((run / "onnx" / "config.json").read_text())["id2label"] == {"0": "different", "1": "same"}
    import onnxruntime

    session = onnxruntime.InferenceSession(str(run / "onnx" / "model.onnx"))
    for batch, length in ((1, 3), (5, 40)):
        inputs = {name: np.ones((batch, length), dtype=np.int64) for name in INPUTS}
        assert session.run(None, inputs)[0].shape == (batch, 2)
    before = (run / "onnx" / "model.onnx").read_bytes()
    monkeypatch.setattr(export_module, "TOLERANCE", 0.0)
    with pytest.raises(RunError, match="a logit differs by"):
        export(parse(["--do_eval", f"--model_name_or_path={run}", "--use_cpu"]))
    assert (run / "onnx" / "model.onnx").read_bytes() == before
    assert not list(run.rglob(".*"))
    with locked(run / "onnx"), pytest.raises(UserError, match=r"onnx: another run writes there"):
        export(parse(["--do_eval", f"--model_name_or_path={run}", "--use_cpu"]))
    with locked(run, name=".predictions.lock"), pytest.raises(UserError, match=r"run: another run writes there"):
        predict(parse(["--do_predict", f"--model_name_or_path={run}", "--use_cpu"]))
    assert (run / "onnx" / "model.onnx").read_bytes() == before
