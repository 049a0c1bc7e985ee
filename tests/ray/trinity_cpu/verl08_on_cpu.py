"""Lets verl 0.8, which trains for Trinity-RFT, run without GPU. verl loads it into its processes by

    VERL_USE_EXTERNAL_MODULES=verl08_on_cpu

This verl has no place for platforms, so what it asks about the device is answered here.
"""

import importlib.abc
import importlib.util
import sys
import types
from typing import Any

import torch
import torch.distributed as dist
import verl.utils.device as verl_device

_MEMORY_BYTES = 16 << 30
_CPU = torch.device("cpu")


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


def _zero(*_args: Any, **_kwargs: Any) -> int:
    return 0


def _device_module() -> types.ModuleType:
    """What verl asks of torch.cuda."""
    module = types.ModuleType("torch_cpu_device")
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: _CPU,
        "mem_get_info": lambda *_: (_MEMORY_BYTES // 2, _MEMORY_BYTES),
        "get_device_name": lambda *_: "cpu",
        "get_device_properties": lambda *_: types.SimpleNamespace(
            total_memory=_MEMORY_BYTES, name="cpu"
        ),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "manual_seed": torch.manual_seed,
        "manual_seed_all": torch.manual_seed,
        "memory": types.SimpleNamespace(_set_allocator_settings=_nothing),
    }
    for name in ("set_device", "synchronize", "empty_cache", "ipc_collect"):
        answers[name] = _nothing
    answers["reset_peak_memory_stats"] = _nothing
    for kind in ("allocated", "reserved"):
        answers[f"memory_{kind}"] = answers[f"max_memory_{kind}"] = _zero
    for name, answer in answers.items():
        setattr(module, name, answer)
    return module


_device = _device_module()
for _name, _answer in {
    "get_device_name": lambda: "cpu",
    "get_torch_device": lambda: _device,
    "get_device_id": lambda: _CPU,
    "get_nccl_backend": lambda: "gloo",
    "get_resource_name": lambda: "GPU",  # pretended to Ray
    "set_expandable_segments": _nothing,
    "get_visible_devices_keyword": lambda: "CUDA_VISIBLE_DEVICES",
}.items():
    setattr(verl_device, _name, _answer)


def _init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
    """verl asks for one group on CPU and one on the device; here that is twice the same."""
    return _torch_init("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)


_torch_init = dist.init_process_group
dist.init_process_group = _init_process_group
# Trinity asks torch.cuda itself in places, and pins what it keeps in host memory.
torch.cuda.get_device_capability = lambda *_: (8, 0)
torch.cuda.current_device = lambda: _CPU  # type: ignore[assignment,return-value]
for _name in ("synchronize", "empty_cache"):
    setattr(torch.cuda, _name, _nothing)
torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign]


def _register_engines() -> None:
    """The engines for CUDA serve the CPU too."""
    from verl.workers.engine import EngineRegistry

    for kind in ("language_model", "value_model"):
        for strategy in ("fsdp", "fsdp2"):
            engines = EngineRegistry._engines[kind][strategy]
            engines["cpu"] = engines["cuda"]


class _AfterImport(importlib.abc.MetaPathFinder):
    """Registers once verl's engines are there: they import verl, which imports this file."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != "verl.workers.engine_workers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_register(module: types.ModuleType) -> None:
            execute(module)
            _register_engines()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _AfterImport())
