"""A process's memory: the most it has had, and what the C library keeps when freed, a step's tensors for the next's."""

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import Any

import torch

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 32 << 20  # bytes of a tensor that is kept: malloc's own upper limit; larger ones still go back at once
KEPT = 1 << 30  # bytes at the heap's top above which it goes back all the same


def keep_freed_memory() -> None:
    """Have glibc keep what is freed; elsewhere do nothing.

    By itself it gives back the end of the heap whenever some 20 MB are free there, so that each training step gets its
    gradients and activations anew, page by page, zeroed by the kernel: for BERT-base's last two layers at batch 32
    13,000 page faults a step, and a tenth of its time.
    """
    try:
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST)
        library.mallopt(M_TRIM_THRESHOLD, KEPT)
    except (OSError, TypeError, AttributeError):  # Windows, musl, macOS
        return


def give_back_freed_memory() -> None:
    """Have glibc give the system what is free by now; elsewhere do nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, TypeError, AttributeError):  # Windows, musl, macOS
        return


def peak_memory() -> int:
    """The most resident memory this process has had, in bytes; 0 where the system does not tell."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Let both peaks count anew, the host's where Linux lets it: of several runs in one process each has its own."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    library: Any = torch.get_device_module()  # the CPU's, where there is no GPU
    if hasattr(library, "reset_peak_memory_stats") and library.is_initialized():
        library.reset_peak_memory_stats()


def peak_gpu_memory(device: str) -> int:
    """The most memory that tensors have had on a GPU or the like, in bytes; 0 where its library does not count."""
    return int(getattr(getattr(torch, device, None), "max_memory_allocated", lambda: 0)())
