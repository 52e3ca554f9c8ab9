import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from recipe.process.allocator import give_back_freed_memory, keep_freed_memory, peak_gpu_memory, reset_peak_memory
from tests.utils import ROOT

FAULTS = """
import resource, torch
from recipe.process.allocator import keep_freed_memory
{call}
torch.set_num_threads(1)
shapes = [(512, 2048), (2048, 512)] * 2
layers = torch.nn.Sequential(*(torch.nn.Linear(*shape) for shape in shapes))
optimizer = torch.optim.SGD(layers.parameters(), 0.1)
def step():
    layers(torch.ones(512, 512)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not GLIBC, reason="not glibc")
def test_a_steps_tensors_lie_where_the_last_ones_did():
    assert 4 * page_faults("keep_freed_memory()") < page_faults("")


HELD = """
import torch
from pathlib import Path
from recipe.process.allocator import give_back_freed_memory, keep_freed_memory
def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmRSS"))
keep_freed_memory()
kept = [torch.ones(1 << 20) for _ in range(64)]
last = torch.ones(1 << 10)
full = resident()
del kept
give_back_freed_memory()
print(full - resident())
"""


@pytest.mark.skipif(not GLIBC, reason="not glibc")
def test_what_is_free_goes_back_where_it_is_asked_for():
    done = subprocess.run([sys.executable, "-c", HELD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 200_000  # of 262,144 kB


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    keep_freed_memory()
    give_back_freed_memory()


@pytest.mark.parametrize("begun", [True, False])
def test_each_run_of_a_process_has_its_own_peak_on_the_gpu(monkeypatch, begun):
    calls = []
    library = SimpleNamespace(
        is_initialized=lambda: begun,
        reset_peak_memory_stats=lambda: calls.append("reset"),
        max_memory_allocated=lambda: 7,
    )
    monkeypatch.setattr(torch, "get_device_module", lambda: library)
    reset_peak_memory()
    assert calls == ["reset"] * begun
    for kind in ("cuda", "xpu"):
        monkeypatch.setattr(torch, kind, library)
        assert peak_gpu_memory(kind) == 7


@pytest.mark.parametrize("kind", ["cpu", "mps", "xla"])
def test_a_device_whose_memory_is_not_counted_has_no_peak(kind):
    assert peak_gpu_memory(kind) == 0
    reset_peak_memory()
