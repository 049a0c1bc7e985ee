"""Lets the real verl 0.9.1 run without a GPU. Loaded into each of its processes by

    VERL_PLATFORM=cpu VERL_USE_EXTERNAL_MODULES=tests.ray.verl_cpu

through the places that verl has for it: a platform, engines for that device, and an inference
server (`verl_cpu_server.py`). What only a GPU has answers with nothing.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any, ClassVar

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

from tests.ray.cpu_device import device_module, patch_process_groups
from tests.ray.names import SERVER

_DEVICE = device_module()


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """A CPU that Ray counts as a GPU, since verl places its workers by GPUs."""

    device_name = property(lambda self: "cpu")
    vendor_name = property(lambda self: "cpu")
    device_module = property(lambda self: _DEVICE)

    def is_available(self) -> bool:
        return True

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> nullcontext[None]:
        return nullcontext()

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


patch_process_groups()
# Weights that are offloaded are pinned, which a machine without an accelerator refuses.
torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign]


@cache
def _register_engines() -> None:
    from verl.workers.engine import EngineRegistry
    from verl.workers.engine.fsdp import transformer_impl

    register = EngineRegistry.register(
        model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu"
    )
    register(transformer_impl.FSDPEngineWithLMHead)


@cache  # whichever of verl's modules comes first
def _register_server() -> None:
    from verl.workers.rollout import base
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    def load() -> type:
        from tests.ray.verl_cpu_server import Replica

        return Replica

    RolloutReplicaRegistry.register(SERVER, load)
    base._ROLLOUT_REGISTRY[(SERVER, "async")] = "tests.ray.verl_cpu_server.ServerAdapter"


def _register_trainer() -> None:
    importlib.import_module("tests.ray.recording_trainer")


class _AfterImport(importlib.abc.MetaPathFinder):
    """Registers once verl's own modules are there: they import verl, which imports this file."""

    actions: ClassVar[dict[str, Callable[[], None]]] = {
        "verl.workers.engine_workers": lambda: (_register_engines(), _register_server()),
        "verl.workers.rollout.llm_server": _register_server,
        "astuner.backbone.verl.trainer": _register_trainer,
    }

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        action = self.actions.pop(fullname, None)
        if action is None:
            return None
        spec = importlib.util.find_spec(fullname)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_register(module: types.ModuleType) -> None:
            execute(module)
            action()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _AfterImport())
