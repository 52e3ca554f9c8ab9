import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from recipe.cache.key import batch_tokens
from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.system.arithmetic import (
    changed_arithmetic,
    describe_arithmetic,
    multiplies_in_bfloat16,
    other_arithmetic,
    refuse_other_precision,
)


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
    (line,) = other_arithmetic(changed_arithmetic(before, after), "checkpoint-9")
    for change in (
        "threads 3 (was 1)",
        "torch 0.1 (was",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE 1 (was not set)",
        " and math",
    ):
        assert change in line
    assert not changed_arithmetic(before, before)
    assert not changed_arithmetic({}, after)  # a checkpoint of before it was recorded


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


@pytest.mark.parametrize(
    ("able", "fast"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_the_processor_says_what_is_fast_and_bf16_follows_it(monkeypatch, tiny_model, able, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert multiplies_in_bfloat16("cpu") is fast
    words = [f"--model_name_or_path={tiny_model}", "--use_cpu=true"]
    assert parse(words).training.bf16 is fast
    assert parse([*words, "--bf16=false"]).training.bf16 is False
    assert parse([*words, "--bf16"]).training.bf16 is True
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # which asks for it itself
    assert parse(words).training.bf16 is False


def test_the_model_scores_as_the_run_scored_it_and_finds_its_states(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    for bf16 in ("true", "false"):
        run = tmp_path / bf16
        train(arguments("--num_train_epochs=2", f"--bf16={bf16}", f"--output_dir={run}"))
        expected = json.loads((run / "all_results.json").read_text())
        capsys.readouterr()
        words = [
            "--do_eval",
            f"--model_name_or_path={run}",
            "--use_cpu=true",
            f"--prefix_cache_dir={tmp_path / 'cache'}",
        ]
        found = evaluate(parse(words))
        said = capsys.readouterr().out
        assert "dev.json found" in said
        assert "its run scored it in" not in said
        for key in ("eval_loss", "eval_accuracy", "eval_confusion_matrix", "eval_roc_auc"):
            assert found[key] == expected[key], key


def test_a_model_that_is_scored_in_other_types_than_its_run_scored_it_in_says_so(
    arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # as of a processor without bfloat16
    for name, bf16 in (("first", "true"), ("second", "false")):
        train(arguments(f"--bf16={bf16}", f"--output_dir={tmp_path / name}", "--prefix_cache=off"))
    capsys.readouterr()
    first, second = tmp_path / "first", tmp_path / "second"
    evaluate(parse(["--do_eval", f"--model_name_or_path={second}", f"--against={first}", "--use_cpu=true"]))
    notes = [line for line in capsys.readouterr().out.splitlines() if "its run scored it in" in line]
    assert notes == [f"note: {first} is scored in float32; its run scored it in bfloat16 (--bf16)"]


def test_training_in_bfloat16_keeps_float32_weights(arguments, tmp_path, capsys):
    train(arguments("--bf16=true", "--max_steps=2", "--eval_strategy=no", "--prefix_cache=on"))
    assert "computing in bfloat16 over float32 weights (--bf16 false: in float32)" in capsys.readouterr().out
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    with pytest.raises(UserError, match=r"--bf16 False: it was True in "):
        train(arguments("--max_steps=2", "--eval_strategy=no", "--prefix_cache=on"))


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_gpu_that_emulates_bfloat16_does_not_count_as_one_that_multiplies_in_it(monkeypatch, kind):
    backend = SimpleNamespace(is_bf16_supported=lambda including_emulation=True: including_emulation)  # as of a T4
    monkeypatch.setattr(torch, kind, backend)
    assert multiplies_in_bfloat16(kind) is False
    backend.is_bf16_supported = lambda including_emulation=True: True
    assert multiplies_in_bfloat16(kind) is True


@pytest.mark.parametrize("kind", ["cuda", "npu", "xpu"])
def test_a_device_is_recorded_by_its_name_so_that_another_of_its_kind_is_another(monkeypatch, arguments, kind):
    args = SimpleNamespace(device=torch.device(kind if kind != "npu" else "privateuseone"), mixed_precision="no")
    monkeypatch.setattr(torch, args.device.type, SimpleNamespace(get_device_name=lambda device: "Two"), raising=False)
    assert describe_arithmetic(args)["device"] == "Two"


@pytest.mark.parametrize("kind", ["mps", "npu", "xpu"])
def test_another_accelerator_gets_batches_and_a_type(monkeypatch, kind):
    device = SimpleNamespace(type=kind)
    assert batch_tokens(device) == batch_tokens(torch.device("cpu"))
    for able, name in ((True, "bfloat16"), (False, "float32"), (None, "float32")):
        supported = {"xpu": lambda including_emulation: able}.get(kind, lambda: able)  # noqa: B023
        backend = SimpleNamespace() if able is None else SimpleNamespace(is_bf16_supported=supported)
        monkeypatch.setattr(torch, kind, backend, raising=False)
        assert multiplies_in_bfloat16(kind) is (name == "bfloat16")
