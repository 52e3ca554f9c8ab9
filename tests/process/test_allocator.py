import ctypes
import subprocess
import sys

import pytest

from recipe.process.allocator import keep_freed_memory
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc")
def test_a_steps_tensors_lie_where_the_last_ones_did():
    assert 4 * page_faults("keep_freed_memory()") < page_faults("")


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    keep_freed_memory()
