"""Trinity's checkpoints as folders that transformers loads, compared with what the trainer saved.

Trinity writes the weights twice: in Hugging Face format, and with the optimizer as the state that
it resumes from. The second gives the log-probabilities that the first must have. Trinity reads it
rounded to bfloat16, and so both are compared.
"""

# Trinity-RFT and Ray are installed in a virtual environment of their own:
# pyright: reportMissingImports=false

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trinity.common.models.utils import load_fsdp_state_dict_from_verl_checkpoint

from astuner.backbone.cluster.export import export_checkpoint, logprobs_from
from astuner.backbone.cluster.messages import Probe, SavedState
from astuner.errors import BackboneError
from astuner.run_dir import RunDir, read_json_lines
from astuner.trajectory.merge import Sequence as TokenSequence
from astuner.trajectory.record import episode_from_record

_NUM_PROBES = 2
_READ_AS = "bfloat16"
"""By Trinity's own reader, whatever was saved."""


def export_saved(
    saved: SavedState, run_dir: RunDir, *, temperature: float, dtype: str, keep: int | None
) -> str:
    """Make checkpoints/step_N of a state that the trainer saved; see `export_checkpoint`."""
    sequences = _shortest_sequences(run_dir, saved.step)
    probes = _probes(Path(saved.weights).parent, sequences, temperature=temperature)
    probed = replace(saved, probes=probes)
    return export_checkpoint(probed, run_dir, dtype=dtype, keep=keep, probed_as=_READ_AS)


def _shortest_sequences(run_dir: RunDir, step: int) -> list[TokenSequence]:
    """Of the newest step up to `step` that has any trained ones."""
    for earlier in range(step, 0, -1):
        path = run_dir.episodes_file(earlier, "train")
        episodes = map(episode_from_record, read_json_lines(path) if path.exists() else ())
        found = [s for episode in episodes for s in episode.sequences if s.num_trained]
        if found:
            return sorted(found, key=lambda sequence: len(sequence.ids))[:_NUM_PROBES]
    return []


def _probes(
    folder: Path, sequences: Sequence[TokenSequence], *, temperature: float
) -> tuple[Probe, ...]:
    """What the weights in the trainer's own state think of the sequences."""
    try:
        weights = load_fsdp_state_dict_from_verl_checkpoint(str(folder))
    except (OSError, ValueError, RuntimeError) as error:
        raise BackboneError(f"{folder}: the trainer's own state cannot be read: {error}") from error
    config = AutoConfig.from_pretrained(folder / "huggingface")
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, _READ_AS)).eval()
    model.load_state_dict(weights)
    return tuple(_probe(model, sequence, temperature) for sequence in sequences)


def _probe(model: torch.nn.Module, sequence: TokenSequence, temperature: float) -> Probe:
    first = sequence.mask.index(True)
    logprobs_T = logprobs_from(model, sequence.ids, first=first, temperature=temperature)
    return Probe(
        ids=sequence.ids,
        first=first,
        logprobs=tuple(logprobs_T.tolist()),
        temperature=temperature,
    )
