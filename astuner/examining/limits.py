"""Does the model fit: its memory, its context, its adapter? Asked of its configuration alone."""

from collections.abc import Sequence

from astuner.backbone.run import Run
from astuner.config.sections.model import LoraSettings
from astuner.errors import ConfigError
from astuner.examining.finding import DoctorFinding, Remarks
from astuner.models.vllm_adapter import MAX_RANKS, max_rank_for, unserved_layers

_SAY = Remarks("model")


def look_at_memory(run: Run, source: str) -> list[DoctorFinding]:
    """What the run needs, before anything is loaded; the model's family too."""
    from astuner.backbone.local.fit import fit_to_device
    from astuner.backbone.local.reference_weights import find_reference
    from astuner.models.supported import check_supported

    check_supported(source)
    try:
        summary = fit_to_device(run.settings, source, reference=find_reference(run)).summary
    except ConfigError as error:
        return [_SAY.wrong("memory", str(error))]
    if summary is None:
        return [_SAY.unchecked("memory", "there is no estimate for a model of this kind")]
    text = summary.removeprefix("memory: ")
    if text.startswith("warning: "):
        return [_SAY.warning("memory", text.removeprefix("warning: "))]
    return [_SAY.fine("memory", text)]


def look_at_context(run: Run, source: str) -> list[DoctorFinding]:
    """The limits of prompts and replies against what the model was made for."""
    from astuner.models.source import load_config

    config = load_config(source)
    longest = config and getattr(config.get_text_config(), "max_position_embeddings", None)
    rollout, data = run.settings.rollout, run.settings.data
    return judge_context(
        longest,
        max_model_len=rollout.max_model_len,
        max_prompt=data.max_prompt_length,
        max_response=data.max_response_length,
    )


def judge_context(
    longest: int | None, *, max_model_len: int, max_prompt: int, max_response: int
) -> list[DoctorFinding]:
    """All in tokens; `longest` is None where the model does not tell."""
    if longest is not None and max_model_len > longest:
        return [
            _SAY.wrong(
                "context",
                f"rollout.max_model_len is {max_model_len}, and the model was made for {longest}",
                f"rollout.max_model_len: {longest}",
            )
        ]
    if max_prompt + max_response > max_model_len:
        return [
            _SAY.warning(
                "context",
                f"data.max_prompt_length and max_response_length are {max_prompt} + {max_response} "
                f"tokens, and rollout.max_model_len ends an episode at {max_model_len}",
                f"rollout.max_model_len: {min(max_prompt + max_response, longest or 10**9)}, or "
                f"data.max_response_length: {max(1, max_model_len - max_prompt)}",
            )
        ]
    made_for = "" if longest is None else f" of {longest}"
    return [_SAY.fine("context", f"rollout.max_model_len {max_model_len}{made_for} tokens")]


def look_at_adapter(lora: LoraSettings) -> list[DoctorFinding]:
    """Can what is trained be served as an adapter?"""
    if lora.rank is None:
        return []
    return judge_adapter(lora.rank, lora.target_modules)


def judge_adapter(rank: int, targets: Sequence[str] | None) -> list[DoctorFinding]:
    findings = []
    served = max_rank_for(rank)
    if served is None:
        findings.append(
            _SAY.warning(
                "adapter",
                f"vLLM serves adapters of rank {MAX_RANKS[-1]} at most, and this is {rank}",
                f"model.lora.rank: {MAX_RANKS[-1]}, or trainer_common.save_merged: true",
            )
        )
    unserved = unserved_layers(targets or ())
    if unserved:
        findings.append(
            _SAY.warning(
                "adapter",
                f"vLLM takes no adapter of {', '.join(unserved)} of most models",
                "take them out of model.lora.target_modules, or trainer_common.save_merged: true",
            )
        )
    if not findings:
        findings.append(_SAY.fine("adapter", f"rank {rank}: vLLM serves it with rank {served}"))
    return findings
