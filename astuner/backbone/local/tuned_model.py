"""The model that a run tunes, with all that works on it in this process, loaded and connected.

Knows no steps: `backbone.py` says when the model samples and when it is trained.
"""

from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel

from astuner.backbone.assemble import find_model, load_own_function
from astuner.backbone.local.fit import fit_to_device
from astuner.backbone.local.keeper import Saved
from astuner.backbone.local.reference_weights import (
    check_reference,
    find_reference,
    keep_reference,
    load_reference,
)
from astuner.backbone.local.serve import load_engine, make_reference_engine
from astuner.backbone.local.settings import trainer_settings
from astuner.backbone.local.warm_start import find_warm_start
from astuner.backbone.run import Run
from astuner.engine.attendance import Attendance
from astuner.engine.protocol import TrainedEngine
from astuner.engine.reference import ReferenceEngine
from astuner.inference.template import ChatTemplate
from astuner.models.adapter import take_adapter_weights
from astuner.models.load import LoadedModel
from astuner.models.supported import check_supported
from astuner.models.vllm_adapter import rank_objection, target_objection
from astuner.training.trainer import PolicyTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedModel:
    """One module of weights and those who use it, never two at a time."""

    policy: LoadedModel
    template: ChatTemplate
    engine: TrainedEngine
    """Samples from it."""
    trainer: PolicyTrainer
    """Changes it."""
    reference: ReferenceEngine
    """Samples from the weights of trainer_common.reference."""
    attendance: Attendance
    """Whom the passes of both engines wait for."""


def load_tuned_model(run: Run, saved: Saved | None) -> TunedModel:
    """Load the model of the settings, or that of the checkpoint `saved`, and say what it takes.

    Raises ConfigError or BackboneError for a model that is not there, does not fit, or cannot be
    trained.
    """
    settings, say = run.settings, run.console.say
    _warn_of_unserved_adapter(run)
    base, warm_start = find_model(run), find_warm_start(run)
    has_lora = settings.model.lora.rank is not None
    if warm_start is not None and not has_lora:
        base = str(warm_start)
    # An adapter is put on the base anew; its weights come with the optimizer's state.
    is_whole = saved is not None and not has_lora
    source = str(saved.folder) if saved and is_whole else base
    reference = find_reference(run)
    if reference is not None:
        check_reference(reference, base, max_model_len=settings.rollout.max_model_len)
    check_supported(base)
    device_fit = fit_to_device(settings, base, reference=reference)
    if device_fit.summary is not None:
        say(device_fit.summary)
    say(f"loading {source}")
    loaded = load_engine(run, source, weight_version=saved.state.weight_version if saved else 0)
    policy = loaded.policy
    if warm_start is not None and has_lora and saved is None:
        take_adapter_weights(policy.model, warm_start)
    say(_what_is_trained(policy.model))
    trainer = PolicyTrainer(
        policy.model,
        trainer_settings(
            settings,
            micro_batch_tokens=device_fit.micro_batch_tokens,
            policy_loss=load_own_function(run, "policy_loss"),
            masters_in_host_memory=device_fit.masters_in_host_memory,
            moments_in_host_memory=device_fit.moments_in_host_memory,
        ),
        seed=settings.trainer_common.seed,
        reference=load_reference(settings, base, reference=reference, is_resumed=saved is not None),
    )
    frozen = keep_reference(run, base, loaded, kept=trainer.reference, is_resumed=saved is not None)
    return TunedModel(
        policy=policy,
        template=loaded.template,
        engine=loaded.engine,
        trainer=trainer,
        reference=ReferenceEngine(partial(make_reference_engine, run, loaded), frozen.find),
        attendance=loaded.attendance,
    )


def _warn_of_unserved_adapter(run: Run) -> None:
    """Before a night is spent on an adapter that then has to be merged to be served."""
    lora = run.settings.model.lora
    if lora.rank is None:
        return
    for objection in (rank_objection(lora.rank), target_objection(lora.target_modules or ())):
        if objection is not None:
            run.console.warn(objection)


def _what_is_trained(model: PreTrainedModel) -> str:
    num_all = sum(p.numel() for p in model.parameters())
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    how = "" if num_trained == num_all else f" of {num_all / 1e6:,.1f} million (LoRA)"
    return f"training {num_trained / 1e6:,.1f}{how or ' million'} parameters on {model.device}"
