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
import verl.utils.device as verl_device

from tests.ray.cpu_device import CPU, device_module, nothing, patch_process_groups

_device = device_module()
for _name, _answer in {
    "get_device_name": lambda: "cpu",
    "get_torch_device": lambda: _device,
    "get_device_id": lambda: CPU,
    "get_nccl_backend": lambda: "gloo",
    "get_resource_name": lambda: "GPU",  # pretended to Ray
    "set_expandable_segments": nothing,
    "get_visible_devices_keyword": lambda: "CUDA_VISIBLE_DEVICES",
}.items():
    setattr(verl_device, _name, _answer)


patch_process_groups()
# Trinity asks torch.cuda itself in places, and pins what it keeps in host memory.
torch.cuda.get_device_capability = lambda *_: (8, 0)
torch.cuda.current_device = lambda: CPU  # type: ignore[assignment,return-value]
for _name in ("synchronize", "empty_cache"):
    setattr(torch.cuda, _name, nothing)
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
