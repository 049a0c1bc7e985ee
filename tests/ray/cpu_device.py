"""What verl asks of a GPU, answered for a CPU; both releases of verl here ask the same."""

import types
from typing import Any

import torch
import torch.distributed as dist

CPU = torch.device("cpu")
_MEMORY_BYTES = 16 << 30


def nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


def _zero(*_args: Any, **_kwargs: Any) -> int:
    return 0


def device_module() -> types.ModuleType:
    """What verl asks of torch.cuda."""
    module = types.ModuleType("torch_cpu_device")
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: CPU,
        "mem_get_info": lambda *_: (_MEMORY_BYTES // 2, _MEMORY_BYTES),
        "get_device_name": lambda *_: "cpu",
        "get_device_properties": lambda *_: types.SimpleNamespace(
            total_memory=_MEMORY_BYTES, name="cpu"
        ),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "manual_seed": torch.manual_seed,
        "manual_seed_all": torch.manual_seed,
        "memory": types.SimpleNamespace(_set_allocator_settings=nothing),
    }
    for name in ("set_device", "synchronize", "empty_cache", "ipc_collect"):
        answers[name] = nothing
    answers["reset_peak_memory_stats"] = nothing
    for kind in ("allocated", "reserved"):
        answers[f"memory_{kind}"] = answers[f"max_memory_{kind}"] = _zero
    for name, answer in answers.items():
        setattr(module, name, answer)
    return module


def _init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
    """verl asks for one group on CPU and one on the device; here that is twice the same."""
    return _torch_init("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)


_torch_init = dist.init_process_group


def patch_process_groups() -> None:
    dist.init_process_group = _init_process_group
