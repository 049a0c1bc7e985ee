"""AdamW on float32 master weights, under a model that computes in any dtype.

Gradients are added up in float32 while the backward pass runs, and the updated masters are written
into the model's own storage, so that whoever generates with the same module sees the new weights.
Masters and moments can rest in host memory; they come to the device part by part for the update,
which computes the same.
"""

import contextlib
import mmap
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from astuner.errors import BackboneError

PART_ELEMENTS = 2**28
"""Of what rests in host memory, most that is on the device at once: 1 GiB of each tensor."""


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
    masters_in_host_memory: bool = False
    """Where masters rest between updates; they are there already for a model on the CPU."""
    moments_in_host_memory: bool = False

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.max_grad_norm <= 0 or self.warmup_updates < 0:
            raise ValueError(f"out of range: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one optimizer step did."""

    grad_norm: float
    """Global norm before clipping."""
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Numbers that change with the weights as the sampler uses them, down to single bits."""

    norm: float
    """Global norm."""
    checksum: int
    """Sum of the weights' bits, read as integers, modulo 2**32."""


class MasterAdamW:
    """Owns the masters, their gradients and moments of a model's parameters.

    Parameters with requires_grad at construction are trained; a tied one counts once. A float32
    parameter is its own master, and stays where it is.
    """

    def __init__(self, model: nn.Module, settings: OptimizerSettings) -> None:
        self.num_updates = 0
        self._settings = settings
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._rests = _Rests(settings, self._parameters)
        self._masters = {name: self._rests.master(p) for name, p in self._parameters.items()}
        self.gradients: dict[str, Tensor] = {}
        """Sums since the last update by name, in float32 on the parameter's device."""
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(_AddTo(self.gradients, name))
            for name, parameter in self._parameters.items()
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
        for names in self._rests.parts(self.gradients):
            with self._on_device(names):
                for name in names:
                    self._masters[name].grad = self.gradients.pop(name)
                self._adamw.step()
                for name in names:
                    self._masters[name].grad = None
                self._write_weights(names)
        return Update(grad_norm=grad_norm, learning_rate=rate)

    @contextlib.contextmanager
    def _on_device(self, names: Sequence[str]) -> Iterator[None]:
        """Masters and moments of these are on the device inside of the block."""
        for name in names:
            self._rests.fetch(self._parameters[name], self._masters[name], self._adamw)
        yield
        for name in names:
            self._rests.put_back(self._masters[name], self._adamw)

    def discard_gradients(self) -> None:
        """Forget what has been added up since the last update."""
        self.gradients.clear()
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def fingerprint(self) -> Fingerprint:
        """Of the weights as they are."""
        weights = list(self._parameters.values())
        norm = torch.nn.utils.get_total_norm(weights).item()
        integers = {2: torch.int16, 4: torch.int32}
        sums = [p.view(integers[p.element_size()]).sum(dtype=torch.int64) for p in weights]
        checksum = int(torch.stack(sums).sum()) % 2**32
        return Fingerprint(norm=norm, checksum=checksum)

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
                on = tensor.device if kind == "step" else self._parameters[name].device
                self._adamw.state[master][kind] = tensor.clone().to(on)
        self.num_updates = num_updates
        for names in self._rests.parts(self._masters):
            with self._on_device(names):
                self._write_weights(names)

    def _clip(self) -> float:
        """Scale the gradients down to the largest norm; return their norm before."""
        gradients = list(self.gradients.values())
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            raise self._not_finite_error()
        share = (self._settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, share)  # type: ignore[attr-defined]  # torch's own name
        return norm.item()

    def _not_finite_error(self) -> BackboneError:
        names = [name for name, g in self.gradients.items() if not torch.isfinite(g).all()]
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

    def _write_weights(self, names: Sequence[str]) -> None:
        pairs = [
            (self._parameters[name], self._masters[name])
            for name in names
            if self._parameters[name].dtype != torch.float32
        ]
        if pairs:
            weights, masters = (list(side) for side in zip(*pairs, strict=True))
            torch._foreach_copy_(weights, masters)  # type: ignore[attr-defined]  # torch's own name


class _Rests:
    """Where masters and moments are between updates, and how they come and go."""

    def __init__(self, settings: OptimizerSettings, parameters: Mapping[str, nn.Parameter]) -> None:
        self._sizes = {name: parameter.numel() for name, parameter in parameters.items()}
        self._masters = settings.masters_in_host_memory
        self._moments = settings.moments_in_host_memory
        self._host: dict[tuple[nn.Parameter, str], Tensor] = {}
        """The resting place of a master ("") or of its moment of that name."""
        self._pinned: list[Tensor] = []
        # Memory that is freed while pinned breaks copies from whatever lies there next.
        weakref.finalize(self, _unpin, self._pinned).atexit = False

    def master(self, parameter: nn.Parameter) -> nn.Parameter:
        """A new one, at rest; the parameter itself where that is in float32."""
        if parameter.dtype == torch.float32:
            return parameter
        master = nn.Parameter(parameter.detach().float(), requires_grad=False)
        if self._masters:
            master.data = self._rest(master, "", master.data)
        return master

    def parts(self, names: Mapping[str, Tensor]) -> list[list[str]]:
        """Those names, in order, in parts that are on the device together."""
        if not (self._masters or self._moments):
            return [list(names)]
        parts: list[list[str]] = []
        room = 0
        for name in names:
            if not parts or self._sizes[name] > room:
                parts.append([])
                room = PART_ELEMENTS
            parts[-1].append(name)
            room -= self._sizes[name]
        return parts

    def fetch(
        self, parameter: nn.Parameter, master: nn.Parameter, adamw: torch.optim.AdamW
    ) -> None:
        on = parameter.device
        master.data = master.data.to(on, non_blocking=True)
        for kind, tensor in adamw.state.get(master, {}).items():
            if kind != "step":
                adamw.state[master][kind] = tensor.to(on, non_blocking=True)

    def put_back(self, master: nn.Parameter, adamw: torch.optim.AdamW) -> None:
        if self._masters and (master, "") in self._host:
            master.data = self._rest(master, "", master.data)
        if self._moments:
            for kind, tensor in adamw.state.get(master, {}).items():
                if kind != "step":
                    adamw.state[master][kind] = self._rest(master, kind, tensor)

    def _rest(self, master: nn.Parameter, kind: str, tensor: Tensor) -> Tensor:
        """The tensor's copy in host memory, at the same place every time."""
        if tensor.device.type == "cpu":
            return tensor
        place = self._host.get((master, kind))
        if place is None:
            place = self._host[master, kind] = whole_pages(tensor.shape)
            if _pin(place):
                self._pinned.append(place)
        return place.copy_(tensor)


def whole_pages(shape: torch.Size) -> Tensor:
    """Float32 memory that shares no page with any other: only whole pages can be pinned, and a copy
    that begins in a pinned page and ends in another fails."""
    return torch.frombuffer(mmap.mmap(-1, 4 * shape.numel()), dtype=torch.float32).view(shape)


def _pin(tensor: Tensor) -> bool:
    """Let the device reach this memory several times faster, where it may be pinned.

    Not through torch's allocator of pinned memory, which rounds sizes up to powers of two.
    """
    size = tensor.numel() * tensor.element_size()
    error = torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), size, 0)  # type: ignore[attr-defined]  # untyped
    return int(error) == 0


def _unpin(pinned: list[Tensor]) -> None:
    for tensor in pinned:
        torch.cuda.cudart().cudaHostUnregister(tensor.data_ptr())  # type: ignore[attr-defined]  # untyped


class _AddTo:
    """Moves a parameter's gradient into a float32 sum as soon as it is complete."""

    def __init__(self, sums: dict[str, Tensor], name: str) -> None:
        self._sums = sums
        self._name = name

    def __call__(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        if self._name in self._sums:
            self._sums[self._name] += parameter.grad
        else:
            self._sums[self._name] = parameter.grad.float()
        parameter.grad = None
