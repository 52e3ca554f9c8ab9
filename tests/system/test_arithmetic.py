import pytest
import torch

from recipe.commands.train import train
from recipe.errors import UserError
from recipe.system.arithmetic import describe_arithmetic, other_arithmetic, refuse_other_precision


def test_what_is_no_flag_is_recorded_and_said_when_it_changes(arguments, monkeypatch):
    args = arguments().training
    before = describe_arithmetic(args)
    assert before["threads"] == 1
    assert before["mixed_precision"] == "no"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("recipe.system.arithmetic.version", lambda name: "0.1")
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    enabled = torch.backends.cuda.math_sdp_enabled()
    torch.backends.cuda.enable_math_sdp(False)
    try:
        after = describe_arithmetic(args)
    finally:
        torch.backends.cuda.enable_math_sdp(enabled)
    (line,) = other_arithmetic(before, after, "checkpoint-9")
    for change in (
        "threads 3 (was 1)",
        "torch 0.1 (was",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE 1 (was not set)",
        " and math",
    ):
        assert change in line
    assert not other_arithmetic(before, before, "checkpoint-9")
    assert not other_arithmetic({}, after, "a checkpoint of before it was recorded")


@pytest.mark.parametrize("name", ["mixed_precision", "dynamo_backend", "sharding"])
def test_what_stands_for_a_flag_may_not_change(arguments, name):
    now = describe_arithmetic(arguments().training)
    with pytest.raises(UserError, match=r"it was other in checkpoint-9; give the old one$"):
        refuse_other_precision({**now, name: "other"}, now, "checkpoint-9", "give the old one")
    refuse_other_precision({}, now, "checkpoint-9", "")


def test_a_run_begun_under_accelerates_mixed_precision_is_not_resumed_without(arguments, monkeypatch, tmp_path, capsys):
    words = ["--eval_strategy=no", "--save_strategy=steps", "--save_steps=3"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train(arguments(*words))
    (tmp_path / "run" / "run.json").unlink()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    train(arguments(*words))
    assert "note: other arithmetic than in" in capsys.readouterr().out
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    with pytest.raises(UserError, match=r"ACCELERATE_MIXED_PRECISION\) no: it was bf16 in .*run.json"):
        train(arguments(*words))
