"""Liger's fused kernels in place of a model's own layers, on a GPU."""

import functools
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from astuner.errors import ConfigError


def has_liger() -> bool:
    return importlib.util.find_spec("liger_kernel") is not None


def use_fused_layers(model: PreTrainedModel, *, is_asked: bool = True) -> bool:
    """Let Liger's kernels compute norms, rotations and gates, if they are installed and fit.

    They run on GPUs only, and compute the same in fewer passes over memory. Returns whether any
    layer uses them. Raises ConfigError when that is asked for and cannot be.
    """
    if model.device.type != "cuda" or not has_liger():
        if is_asked:
            raise ConfigError(
                f"model.use_liger is true, but the device is {model.device.type} and liger-kernel "
                "is for GPUs, or it is not installed: pip install 'astuner[gpu]'"
            )
        return False
    # It warns of every kernel that it has for other hardware.
    logging.getLogger("liger_kernel").setLevel(logging.ERROR)
    # Not by transformers' integration, which does no more and takes a second to import.
    from liger_kernel.transformers import (  # type: ignore[import-not-found]  # with GPUs only
        _apply_liger_kernel_to_instance,
    )

    before = [module.forward for module in model.modules()]
    modeling = sys.modules[type(model).__module__]
    names = dict(vars(modeling))
    kernels = {"rope": True, "rms_norm": True, "swiglu": True}
    not_ours = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    _apply_liger_kernel_to_instance(model=model, **kernels, **not_ours)
    _leave_other_models_plain(modeling, names)
    return any(module.forward != f for module, f in zip(model.modules(), before, strict=True))


def _leave_other_models_plain(modeling: ModuleType, names: Mapping[str, Any]) -> None:
    """Take back what Liger changes for every model of the kind, apart from functions on GPUs.

    Its kernels are given bare addresses: of a model without storage they would read anything.
    """
    for name, plain in names.items():
        fused = getattr(modeling, name)
        if fused is not plain:
            is_class = inspect.isclass(plain)
            setattr(modeling, name, plain if is_class else _on_gpus(fused, plain))


def _on_gpus(fused: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def by_device(first: Tensor, *rest: Any, **named: Any) -> Any:
        return (fused if first.is_cuda else plain)(first, *rest, **named)

    return by_device
