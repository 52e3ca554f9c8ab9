import errno
from types import SimpleNamespace

import pytest
import torch

from recipe.errors import RunError, UserError
from recipe.process.failures import as_refusal, blame, in_one_line
from recipe.training.trainer import FreezeTrainer


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has"),
            "out of memory on cpu: CUDA",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory on cpu: Default"),
        (MemoryError(), "out of memory on cpu: none left"),
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Bus error."), "--dataloader_num_workers 2: Data"),
        (OSError(errno.ENOSPC, "No space left on device"), "--dataloader_num_workers 2: "),
    ],
)
def test_what_a_run_ran_out_of_is_said_with_what_to_lower(arguments, monkeypatch, error, told):
    monkeypatch.setattr(FreezeTrainer, "training_step", lambda *_: (_ for _ in ()).throw(error))
    args = arguments("--dataloader_num_workers=2").training
    for context in (in_one_line, as_refusal):
        with pytest.raises(RunError) as found, context(args):
            raise error
        assert str(found.value).startswith(told)
        assert "\n" not in str(found.value)
        assert ("--per_device_train_batch_size 8" in str(found.value)) is (not told.startswith("--data"))


def test_that_another_process_is_lost_is_told(arguments):
    alone = arguments("--resume=never").training
    pair = SimpleNamespace(world_size=2, process_index=0, same_command=alone.same_command, dataloader_num_workers=0)
    said = "Connection closed by peer [127.0.0.1]:4"
    for error in (RuntimeError(f"[/gloo/gloo/transport/tcp/pair.cc:553] {said}"), torch.distributed.DistError(said)):
        with pytest.raises(RuntimeError) as found, in_one_line(alone):
            raise error
        assert found.value is error
        with pytest.raises(RunError) as told, in_one_line(pair):
            raise error
        assert str(told.value) == (
            f"process 0 of 2: another one has ended or does not answer ({said}); if it says nothing itself it was "
            "killed; the same command without --resume never goes on from what is saved"
        )


def test_shared_memory_may_be_short_without_workers(arguments):
    error = RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")
    with pytest.raises(RunError, match=r"/dev/shm.*--shm-size"), in_one_line(arguments().training):
        raise error


def test_the_first_step_tells_what_it_cannot_do_and_later_ones_are_no_users_fault(arguments):
    args = arguments("--torch_empty_cache_steps=3").training
    error = NotImplementedError("torch_empty_cache_steps is for accelerators")
    with pytest.raises(UserError, match=r"^--torch_empty_cache_steps 3: torch_empty"), in_one_line(args, lambda: False):
        raise error
    with pytest.raises(NotImplementedError), in_one_line(args):
        raise error
    assert blame(args, ValueError()) == "ValueError: ValueError"
