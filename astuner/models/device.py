"""Where a model computes, in which type, and how much memory is left there."""

import logging
from pathlib import Path
from typing import Literal

import psutil
import torch

from astuner.errors import ConfigError

logger = logging.getLogger(__name__)

DtypeName = Literal["auto", "bfloat16", "float32"]

_CGROUP = Path("/sys/fs/cgroup")


def choose_device(device: str) -> torch.device:
    """Raises ConfigError for a GPU that torch does not find."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise ConfigError(
            f"model.device is {device}, but torch {torch.__version__} finds no GPU; it was built "
            f"{built}. Install a CUDA build of torch and see whether `nvidia-smi` works, or set "
            "model.device: cpu"
        )
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Raises ConfigError for an unknown name."""
    if dtype == "auto":
        return torch.bfloat16 if _computes_in_bfloat16(device) else torch.float32
    named = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if dtype not in named:
        raise ConfigError(
            f"loading the model: dtype {dtype!r} is not known; use auto, bfloat16 or float32"
        )
    return named[dtype]


def warn_of_slow_dtype(dtype: str, device: torch.device) -> None:
    if dtype == "bfloat16" and not _computes_in_bfloat16(device):
        logger.warning(
            "model.dtype is bfloat16, which this %s has no instructions for: it computes in "
            "float32 and rounds, which is slow; model.dtype: auto takes float32",
            device.type,
        )


def runs_kernels(device: torch.device) -> bool:
    """Whether our own kernels for GPUs run there: they copy ahead, which takes compute capability
    8.0 (Ampere)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # Private to torch, and some builds lack them.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def available_bytes(device: torch.device) -> int:
    """Free on the device; on a CPU also bounded by the limit of the container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # not in a container, or without a limit
        return free
    return min(free, max(0, limit - used))


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # What torch's allocator for the CPU says.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
