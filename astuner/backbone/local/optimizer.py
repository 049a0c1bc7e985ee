"""AdamW on float32 master weights, under a model that computes in any dtype.

Gradients are added up in float32 while the backward pass runs, and the updated masters are written
into the model's own storage, so that whoever generates with the same module sees the new weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from astuner.errors import BackboneError


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """Constant learning rate behind an optional linear warm-up."""

    learning_rate: float
    warmup_updates: int
    """Update k of these, counted from 1, uses k / warmup_updates of the rate; 0 for none."""
    weight_decay: float
    """Decoupled (arXiv 1711.05101), on every trained parameter."""
    max_grad_norm: float
    """Gradients are scaled down to this global norm."""
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.max_grad_norm <= 0 or self.warmup_updates < 0:
            raise ValueError(f"out of range: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one optimizer step did."""

    grad_norm: float
    """Global norm before clipping."""
    learning_rate: float


class MasterAdamW:
    """Owns the masters, their gradients and moments of a model's parameters.

    Parameters with requires_grad at construction are trained; a tied one counts once. A float32
    parameter is its own master.
    """

    def __init__(self, model: nn.Module, settings: OptimizerSettings) -> None:
        self.num_updates = 0
        self._settings = settings
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._masters = {name: _master(p) for name, p in self._parameters.items()}
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(_AddTo(self._masters[name]))
            for name, parameter in self._parameters.items()
            if parameter.dtype != torch.float32
        ]
        self._adamw = torch.optim.AdamW(
            list(self._masters.values()),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def update(self) -> Update:
        """Clip the gradients since the last update, step, and write the weights in place.

        Raises BackboneError when a gradient is not finite; the weights then stay as they are.
        """
        grad_norm = self._clip()
        self.num_updates += 1
        rate = self._learning_rate()
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._write_weights()
        self.discard_gradients()
        return Update(grad_norm=grad_norm, learning_rate=rate)

    def discard_gradients(self) -> None:
        """Forget what has been added up since the last update."""
        for parameter, master in zip(
            self._parameters.values(), self._masters.values(), strict=True
        ):
            parameter.grad = None
            master.grad = None

    @torch.no_grad()
    def fingerprint(self) -> dict[str, float | None]:
        """Numbers that change with the weights as the sampler uses them, down to single bits."""
        weights = list(self._parameters.values())
        norm = torch.nn.utils.get_total_norm(weights).item()
        integers = {2: torch.int16, 4: torch.int32}
        sums = [p.view(integers[p.element_size()]).sum(dtype=torch.int64) for p in weights]
        checksum = int(torch.stack([s.cpu() for s in sums]).sum()) % 2**32
        return {"train/weights_norm": norm, "train/weights_checksum": float(checksum)}

    def tensors(self) -> dict[str, Tensor]:
        """Masters and moments by name, not copied; with `num_updates` all that goes on exactly.

        "master/NAME" for each trained parameter, and "step/NAME", "exp_avg/NAME", "exp_avg_sq/NAME"
        for those that were updated.
        """
        found = {f"master/{name}": master.detach() for name, master in self._masters.items()}
        for name, master in self._masters.items():
            for kind, tensor in self._adamw.state.get(master, {}).items():
                found[f"{kind}/{name}"] = tensor
        return found

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Continue from `tensors` of the same model; also writes the model's weights.

        Raises BackboneError when they are of a model with other parameters.
        """
        names = {name.partition("/")[2] for name in tensors}
        if self._masters.keys() != names:
            differing = sorted(self._masters.keys() ^ names)
            raise BackboneError(
                f"loading the optimizer: its state is of another model; {len(differing)} "
                f"parameters differ, such as {differing[:3]}; continue with the same base model"
            )
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            master = self._masters[name]
            if kind == "master":
                master.copy_(tensor)
            else:
                on = tensor.device if kind == "step" else master.device
                self._adamw.state[master][kind] = tensor.clone().to(on)
        self.num_updates = num_updates
        self._write_weights()

    def _clip(self) -> float:
        """Scale the gradients down to the largest norm; return their norm before."""
        norm = torch.nn.utils.get_total_norm([gradient for _, gradient in self._gradients()])
        if not torch.isfinite(norm):
            raise self._not_finite_error()
        torch.nn.utils.clip_grads_with_norm_(
            self._masters.values(), self._settings.max_grad_norm, norm
        )
        return norm.item()

    def _gradients(self) -> Iterator[tuple[str, Tensor]]:
        for name, master in self._masters.items():
            if master.grad is not None:
                yield name, master.grad

    def _not_finite_error(self) -> BackboneError:
        names = [name for name, g in self._gradients() if not torch.isfinite(g).all()]
        self.discard_gradients()
        where = f"in {len(names)} parameters, first {names[0]}" if names else "in their norm only"
        return BackboneError(
            f"update {self.num_updates + 1} failed: gradients are not finite {where}; the weights "
            "are those of the update before. Lower the learning rate, or train in float32"
        )

    def _learning_rate(self) -> float:
        warmup = self._settings.warmup_updates
        share = min(1.0, self.num_updates / warmup) if warmup else 1.0
        return self._settings.learning_rate * share

    def _write_weights(self) -> None:
        pairs = [
            (parameter, self._masters[name])
            for name, parameter in self._parameters.items()
            if parameter.dtype != torch.float32
        ]
        if pairs:
            weights, masters = (list(side) for side in zip(*pairs, strict=True))
            torch._foreach_copy_(weights, masters)  # type: ignore[attr-defined]  # torch's own name


def _master(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype == torch.float32:
        return parameter
    return nn.Parameter(parameter.detach().float(), requires_grad=False)


class _AddTo:
    """Moves a parameter's gradient into its master's float32 one as soon as it is complete."""

    def __init__(self, master: nn.Parameter) -> None:
        self._master = master

    def __call__(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        if self._master.grad is None:
            self._master.grad = parameter.grad.float()
        else:
            self._master.grad += parameter.grad
        parameter.grad = None
