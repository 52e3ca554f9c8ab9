"""What a GPU asks for, as far as a CPU can tell: decisions, shapes, and that a compiled tail learns the same."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from recipe.cache.cached_split import PrefixCache
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.system.arithmetic import check_compilation
from recipe.training import accelerator as gpu
from tests.utils import assert_close, history


@pytest.fixture
def cache():
    """Pairs of 3, 8 and 9 tokens."""
    states = torch.arange(20.0)[:, None].repeat(1, 4)
    return PrefixCache(states, torch.tensor([0, 3, 11]), torch.tensor([3, 8, 9]))


def gpu_args(workers=0):
    return SimpleNamespace(
        device=SimpleNamespace(type="cuda"), dataloader_num_workers=workers, process_index=0, dataloader_pin_memory=True
    )


def test_few_lengths_occur_and_the_mask_hides_the_rest(cache):
    padded = cache.to(torch.device("cpu"), 8)
    for indices, length in (([0], 8), ([1], 8), ([0, 1], 8), ([2, 0], 16)):
        states, mask = padded.gather(indices)
        assert states.shape[1] == mask.shape[1] == length
        assert mask.sum(1).tolist() == [[3, 8, 9][index] for index in indices]
        plain, _ = cache.gather(indices)
        assert torch.equal(states[:, : plain.shape[1]], plain)


@pytest.mark.parametrize(
    ("free", "workers", "told", "pinned"),
    [(1000, 0, "in GPU memory", False), (500, 0, "stay with the host", True), (1000, 2, None, True)],
)
def test_the_cache_goes_to_the_gpu_where_it_fits(cache, monkeypatch, capsys, free, workers, told, pinned):
    moved = []
    monkeypatch.setattr(gpu, "free_bytes", lambda device: free)
    monkeypatch.setattr(PrefixCache, "to", lambda self, device, multiple: moved.append(multiple) or self)
    args = gpu_args(workers)
    (kept,) = gpu.place_caches([cache], args)  # 320 bytes
    assert moved == ([gpu.PAD_TO_MULTIPLE_OF] if told == "in GPU memory" else [])
    assert args.dataloader_pin_memory is pinned
    assert (told or "") in capsys.readouterr().out
    assert moved or kept.pad_to_multiple_of == gpu.PAD_TO_MULTIPLE_OF


def test_on_a_cpu_it_stays_where_it_is(cache, arguments):
    assert gpu.place_caches([cache], arguments().training) == [cache]
    (padded,) = gpu.place_caches([cache], arguments("--compile_tail=on").training)
    assert (padded.states is cache.states, padded.pad_to_multiple_of) == (True, gpu.PAD_TO_MULTIPLE_OF)


def test_a_compiled_tail_learns_the_same_and_a_resume_keeps_it(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "BACKEND", "aot_eager")
    words = ("--num_train_epochs=2", "--dropout=0")
    for mode in ("off", "on"):
        train(arguments(*words, f"--compile_tail={mode}", f"--output_dir={tmp_path / mode}"))
    for key in ("loss", "grad_norm", "eval_loss"):
        assert_close(history(tmp_path / "off", key), history(tmp_path / "on", key), 1e-5)
    manifest = json.loads((tmp_path / "on" / "checkpoint-18" / "manifest.json").read_text())
    assert manifest["prefix"]["compiled"] is True


def test_free_memory_is_read_once_garbage_and_allocator_have_given_back_what_they_keep(monkeypatch):
    class Run:
        def __init__(self):
            self.itself = self

        def __del__(self):
            called.append("garbage")

    called = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("given back"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500 * len(called), 1000))
    Run()
    assert gpu.free_bytes(torch.device("cuda")) == 1000
    assert called == ["garbage", "given back"]


@pytest.mark.parametrize(("accumulation", "mode"), [(1, "reduce-overhead"), (2, None)])
def test_gradients_that_wait_for_another_micro_batch_are_in_no_cuda_graph(arguments, monkeypatch, accumulation, mode):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.append(options["mode"]) or function)
    words = (f"--gradient_accumulation_steps={accumulation}", "--max_steps=1", "--eval_strategy=no")
    train(arguments("--compile_tail=on", "--prefix_cache=on", *words))
    assert asked == [mode]


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_accelerate_is_not_let_put_them_in_one_either(arguments, tmp_path, monkeypatch, mode):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")  # as accelerate launch --dynamo_backend has it
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", mode)
    with pytest.raises(UserError, match=rf"^dynamo_mode {mode} of accelerate's with --gradient_accumulation_steps 2: "):
        train(arguments("--gradient_accumulation_steps=2"))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()
    for accumulation, environment in (
        (1, os.environ),
        (2, os.environ | {"ACCELERATE_DYNAMO_MODE": "default"}),
        (2, os.environ | {"ACCELERATE_DYNAMO_BACKEND": "NO"}),
    ):
        check_compilation(environment, accumulation)


def test_a_tail_that_is_not_compiled_is_said_to_be_so(arguments, capsys):
    train(arguments("--compile_tail=on", "--prefix_cache=off", "--eval_strategy=no", "--max_steps=1"))
    assert "note: --compile_tail compiles nothing" in capsys.readouterr().out
