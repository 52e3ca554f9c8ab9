"""What changes a run's numbers and is not a flag: mixed precision, device, threads, kernels, library versions."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from transformers import TrainingArguments

from recipe.errors import UserError

LIBRARIES = ("torch", "transformers", "datasets", "evaluate", "accelerate")
NUMERIC_LIBRARIES = ("numpy", "safetensors", "tokenizers")  # besides those: what a resume's bytes depend on

# What the libraries read of the environment, and what no flag of torch tells of on a machine without a GPU.
ENVIRONMENT = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "OPENBLAS_CORETYPE", "CUBLAS_WORKSPACE_CONFIG"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_CUDNN_V8_API_DISABLED"),
    *("TORCH_BLAS_PREFER_CUBLASLT", "DISABLE_ADDMM_CUDA_LT", "TORCH_LINEAR_FLATTEN_3D", "NCCL_ALGO", "NCCL_PROTO"),
    *("TORCH_MKLDNN_MATMUL_MIN_DIM", "TORCH_MKLDNN_MATMUL_MIN_SIZE", "MKL_DISABLE_FAST_MM"),
    *("PYTORCH_TUNABLEOP_ENABLED", "TORCH_CUDNN_USE_HEURISTIC_MODE_B"),
)

REFUSED = {  # as a changed flag would be: other numbers from the first digits on, or another form of checkpoint
    "mixed_precision": "mixed precision (--bf16, or ACCELERATE_MIXED_PRECISION)",
    "dynamo_backend": "compilation (ACCELERATE_DYNAMO_BACKEND)",
    "sharding": "sharding (ACCELERATE_USE_FSDP, ACCELERATE_USE_DEEPSPEED)",
}


CAPTURING = ("reduce-overhead", "max-autotune")  # torch.compile's modes that make CUDA graphs


def check_compilation(environment: Mapping[str, str], accumulation: int) -> None:
    """Check that accelerate, where it is to compile the model, captures no step of several micro-batches.

    A replay of a captured backward pass writes its gradients where the last one's lie, which are still to be added to.

    Raises:
        UserError: it does.
    """
    mode, backend = (environment.get(f"ACCELERATE_DYNAMO_{name}", "") for name in ("MODE", "BACKEND"))
    if accumulation > 1 and mode in CAPTURING and backend.lower() not in ("", "no"):
        raise UserError(
            f"dynamo_mode {mode} of accelerate's with --gradient_accumulation_steps {accumulation}: gradients that "
            "wait for another micro-batch would be written over; default is expected there, or --compile_tail on"
        )


def multiplies_in_bfloat16(kind: str) -> bool:
    """Whether a device of that kind ("cpu", "cuda", ...) multiplies matrices in bfloat16, and so much faster.

    Asked of the device and not timed: a busy machine would time otherwise than a quiet one.
    """
    if kind != "cpu":
        supported = getattr(getattr(torch, kind, None), "is_bf16_supported", None)
        # GPUs from before Ampere take bfloat16 as well, and emulate it
        own = {"including_emulation": False} if kind in ("cuda", "xpu") else {}
        return supported is not None and bool(supported(**own))
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def describe_arithmetic(args: TrainingArguments) -> dict[str, Any]:
    """What this process computes with, JSON-ready, by name."""
    cuda = torch.backends.cuda
    kernels = {"flash": cuda.flash_sdp_enabled(), "memory-efficient": cuda.mem_efficient_sdp_enabled()}
    kernels |= {"math": cuda.math_sdp_enabled(), "cudnn": cuda.cudnn_sdp_enabled()}
    name_of = getattr(getattr(torch, args.device.type, None), "get_device_name", lambda device: device.type)
    found: dict[str, Any] = {
        "mixed_precision": args.mixed_precision,
        "dynamo_backend": os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower(),
        "sharding": _sharding(),
        "device": name_of(args.device),
        "threads": torch.get_num_threads(),
        "processor instructions": torch.backends.cpu.get_cpu_capability(),
        "attention kernels": [name for name, enabled in kernels.items() if enabled],
        "oneDNN": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "float32 matrix products": torch.get_float32_matmul_precision(),
        "TF32 convolutions": torch.backends.cudnn.allow_tf32,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    found |= versions() | {name: version(name) for name in NUMERIC_LIBRARIES}
    return found | {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


def _sharding() -> str:
    used = [name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"]
    return " ".join(used) or "none"


def refuse_other_precision(old: dict[str, Any], new: dict[str, Any], where: str, way_out: str) -> None:
    """Check that what stands for a flag is as it was; what was not recorded is not compared.

    Raises:
        UserError: it is not.
    """
    for name, what in REFUSED.items():
        if old.get(name, new[name]) != new[name]:
            raise UserError(f"{what} {new[name]}: it was {old[name]} in {where}; {way_out}")


def changed_arithmetic(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs and may change a result's last bits; nothing where none was recorded."""
    return [
        f"{name} {_text(new.get(name))} (was {_text(old.get(name))})"
        for name in sorted(old.keys() | new.keys())
        if old and name not in REFUSED and old.get(name) != new.get(name)
    ]


def other_arithmetic(changes: Sequence[str], where: str) -> list[str]:
    """A line that says what `changed_arithmetic` found; nothing where it found nothing."""
    return [f"other arithmetic than in {where}, so the last bits may differ: {', '.join(changes)}"] if changes else []


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    return " and ".join(value) if isinstance(value, list) else str(value)
