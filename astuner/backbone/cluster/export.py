"""Checkpoints of a clustered engine as folders for transformers, proven before they count.

The engine saves its float32 master weights. The policy that sampled and was judged is their
rounding to its own type, which most updates are too small to reach yet: unrounded, the masters are
another policy, which nobody has tried. So a checkpoint holds what the policy had.
"""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astuner.backbone.cluster.messages import Probe, SavedState
from astuner.backbone.run_events import RunEvents
from astuner.errors import BackboneError
from astuner.models.whole_folder import check_room, new_folder
from astuner.run_dir import RunDir

if TYPE_CHECKING:
    import torch

_ROUNDING = 0.2
"""Nats a token in the mean of many: passes in bfloat16 are about 0.04 apart by rounding, weights of
another step or a layer that is missing make more than 1."""
_ROUNDING_OF_FEW = 1.0
"""Of a single token up to nearly a nat, and less in the mean of more."""


def export_checkpoint(
    saved: SavedState,
    run_dir: RunDir,
    *,
    dtype: str,
    keep: int | None,
    probed_as: str | None = None,
) -> str:
    """Copy the weights to checkpoints/step_N, once they are seen to be the policy's.

    `dtype` is the policy's, such as "bfloat16", and `probed_as` that of the weights which the
    probes are of, where it is another. Keeps the `keep` newest, and the one that the link `best`
    leads to. Returns a line for the screen;
    raises BackboneError where the weights are not there, or are not those that the policy had.
    """
    run_dir.check_is_there()
    source, target = Path(saved.weights), run_dir.checkpoint_dir(saved.step)
    if target.exists():
        return f"checkpoint     {target}"
    if not (source / "config.json").is_file():
        raise BackboneError(
            f"checkpoint of step {saved.step}: {source} is not there. With several nodes, "
            "trainer_common.checkpoint_base_dir must be a folder that all of them share"
        )
    num_bytes = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    check_room(target.parent, num_bytes)
    with new_folder(target, num_bytes=num_bytes) as folder:
        _copy_rounded(source, folder, dtype)
        gap = policy_gap(folder, saved.probes, dtype=probed_as or dtype)
        limit = largest_gap(saved.probes)
        if not gap <= limit:  # nor is one that is not a number
            raise BackboneError(
                f"checkpoint of step {saved.step}: the model in {source} is not the policy. Its "
                f"log-probabilities are {gap:.2f} nats a token away (limit {limit:.2f}), so it is "
                "not kept as a checkpoint; the engine's own state lies beside it"
            )
    RunEvents(run_dir).saved(saved.step, target)
    best = run_dir.best_checkpoint()
    for folder in list(run_dir.checkpoints().values())[keep:] if keep else ():
        if best is None or folder.name != best.name:
            shutil.rmtree(folder)
    return f"checkpoint     {target} (loaded again; {gap:.4f} nats a token from the policy)"


def _copy_rounded(source: Path, folder: Path, dtype: str) -> None:
    """The same files with weights of that type."""
    import torch
    from safetensors.torch import load_file, save

    num_bytes = 0
    for path in source.rglob("*"):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            weights = load_file(path)
            for name, weight in weights.items():
                if weight.is_floating_point():
                    weights[name] = weight.to(getattr(torch, dtype))
                num_bytes += weights[name].nbytes
            target.write_bytes(save(weights, metadata={"format": "pt"}))
        elif path.is_file():
            shutil.copyfile(path, target)
    _change_json(folder / "config.json", {"dtype": dtype})
    _change_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": num_bytes}})


def _change_json(path: Path, changed: dict[str, Any]) -> None:
    if path.exists():
        path.write_text(json.dumps(json.loads(path.read_text()) | changed, indent=2))


def largest_gap(probes: Sequence[Probe]) -> float:
    """The mean distance, in nats a token, that rounding alone can make of so many tokens."""
    num_tokens = sum(len(probe.logprobs) for probe in probes)
    return _ROUNDING + _ROUNDING_OF_FEW / math.sqrt(max(1, num_tokens))


def policy_gap(folder: Path, probes: Sequence[Probe], *, dtype: str) -> float:
    """Mean distance, in nats a token, between a model's log-probabilities and the policy's.

    Raises BackboneError for a folder that transformers cannot load.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    except (OSError, ValueError) as error:
        raise BackboneError(f"{folder}: transformers cannot load it: {error}") from error
    gaps = [_gap(model, probe) for probe in probes]
    return float(torch.cat(gaps).mean()) if gaps else 0.0


def _gap(model: "torch.nn.Module", probe: Probe) -> "torch.Tensor":
    import torch

    found_T = logprobs_from(model, probe.ids, first=probe.first, temperature=probe.temperature)
    return (found_T - torch.tensor(probe.logprobs)).abs()


def logprobs_from(
    model: "torch.nn.Module", ids: Sequence[int], *, first: int, temperature: float
) -> "torch.Tensor":
    """The model's log-probabilities of the tokens from `first` on, [T] in nats."""
    import torch

    ids_1T = torch.tensor([ids], device=next(model.parameters()).device)
    with torch.no_grad():
        logits_TV = model(input_ids=ids_1T).logits[0, first - 1 : -1].float()
    logprobs_TV = torch.log_softmax(logits_TV / temperature, -1)
    return logprobs_TV.gather(-1, ids_1T[0, first:, None])[:, 0]
