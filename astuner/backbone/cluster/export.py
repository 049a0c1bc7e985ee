"""Checkpoints of a clustered engine as folders for transformers, proven before they count."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from astuner.backbone.cluster.hub import Probe, SavedState
from astuner.backbone.local.checkpoint import check_room, new_folder
from astuner.errors import BackboneError
from astuner.run_dir import RunDir

_ROUNDING = 0.2
"""Nats a token in the mean of many: rounding to bfloat16 in the engine makes about 0.04, weights of
another step or a layer that is missing make more than 1."""
_ROUNDING_OF_FEW = 2.0
"""Of a single token it makes up to a nat or two, and less in the mean of more."""


def export_checkpoint(saved: SavedState, run_dir: RunDir, *, keep: int | None) -> str:
    """Copy the weights to checkpoints/step_N, once they are seen to be the policy's.

    Keeps the `keep` newest. Returns a line for the screen; raises BackboneError where the weights
    are not there, or are not those that the policy had.
    """
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
    gap, limit = policy_gap(source, saved.probes), largest_gap(saved.probes)
    if not gap <= limit:  # nor is one that is not a number
        raise BackboneError(
            f"checkpoint of step {saved.step}: the model in {source} is not the policy. Its "
            f"log-probabilities are {gap:.2f} nats a token away (limit {limit:.2f}), so it is "
            "not kept as a checkpoint; the engine's own state lies beside it"
        )
    with new_folder(target, num_bytes=num_bytes) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    for step in list(run_dir.checkpoints())[keep or None :] if keep else ():
        shutil.rmtree(run_dir.checkpoint_dir(step))
    return f"checkpoint     {target} (loaded again; {gap:.4f} nats a token from the policy)"


def largest_gap(probes: Sequence[Probe]) -> float:
    """The mean distance, in nats a token, that rounding alone can make of so many tokens."""
    num_tokens = sum(len(probe.logprobs) for probe in probes)
    return _ROUNDING + _ROUNDING_OF_FEW / math.sqrt(max(1, num_tokens))


def policy_gap(folder: Path, probes: Sequence[Probe]) -> float:
    """Mean distance, in nats a token, between a model's log-probabilities and the policy's.

    Raises BackboneError for a folder that transformers cannot load.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise BackboneError(f"{folder}: transformers cannot load it: {error}") from error
    gaps = [_gap(model, probe) for probe in probes]
    return float(torch.cat(gaps).mean()) if gaps else 0.0


@torch.no_grad()
def _gap(model: torch.nn.Module, probe: Probe) -> torch.Tensor:
    ids_1T = torch.tensor([probe.ids])
    logits_TV = model(input_ids=ids_1T).logits[0, probe.first - 1 : -1] / probe.temperature
    logprobs_TV = torch.log_softmax(logits_TV, -1)
    chosen_T = logprobs_TV.gather(-1, ids_1T[0, probe.first :, None])[:, 0]
    return (chosen_T - torch.tensor(probe.logprobs)).abs()
