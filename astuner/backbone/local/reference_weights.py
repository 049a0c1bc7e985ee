"""The frozen weights of trainer_common.reference, for whom a copy of them is loaded or kept.

A divergence is measured from them, and agents that are not trained may be answered by them.
"""

from transformers import PreTrainedModel

from astuner.backbone.local.serve import LoadedEngine
from astuner.backbone.local.warm_start import find_warm_start
from astuner.backbone.run import Run
from astuner.config.schema import Settings
from astuner.config.sections.model import ModelSettings
from astuner.config.sections.trainer_common import START
from astuner.engine.reference import frozen_copy
from astuner.errors import BackboneError, ConfigError
from astuner.inference.shapes.routed import REFERENCE
from astuner.models.load import load_policy
from astuner.models.source import load_config, load_tokenizer
from astuner.task_reader.local_path import find_path


class ReferenceWeights:
    """Owns the copy; most runs never ask for it, and have none."""

    def __init__(self, run: Run, loaded: LoadedEngine, kept: PreTrainedModel | None) -> None:
        """`kept` is a copy that there is already; `loaded` has the weights that are trained."""
        self._run = run
        self._loaded = loaded
        self._kept = kept

    def find(self) -> PreTrainedModel:
        """The frozen weights. Raises ConfigError where training has changed the only copy."""
        if self._kept is None:
            self._kept = self._load_or_copy()
        return self._kept

    def _load_or_copy(self) -> PreTrainedModel:
        reference = find_reference(self._run)
        if reference is not None:
            return load_frozen(self._run.settings.model, reference)
        version = self._loaded.engine.weight_version
        if version > 0:
            raise ConfigError(
                "debug_model 'reference' was first asked for when the weights had changed "
                f"already (weight version {version}); set "
                "rollout.untrained_model.model: reference, so that a copy of the starting "
                "weights is kept from the beginning"
            )
        return frozen_copy(self._loaded.policy.model)


def find_reference(run: Run) -> str | None:
    """The folder or the name on the hub of trainer_common.reference.

    None where that is what the run starts from and is, or was, trained whole: with a warm start of
    an adapter the weights without the adapter are not those that the first step begins from.
    """
    common, model = run.settings.trainer_common, run.settings.model
    warm_start = find_warm_start(run)
    if common.reference == START:
        is_adapter = warm_start is not None and model.lora.rank is not None
        return str(warm_start) if is_adapter else None
    if warm_start is None and common.reference == model.path and model.revision is None:
        return None
    return str(find_path(common.reference, run.search_dirs) or common.reference)


def check_reference(reference: str, base: str, *, max_model_len: int) -> None:
    """Raise ConfigError unless it can score what the model `base` says. Loads no weights."""
    ours = load_tokenizer(base).get_vocab()
    try:
        its = load_tokenizer(reference).get_vocab()
    except (ConfigError, BackboneError) as error:
        raise ConfigError(f"trainer_common.reference: {error}") from error
    if ours != its:
        other = sorted(ours.items() ^ its.items(), key=lambda pair: (pair[1], pair[0]))[0]
        raise ConfigError(
            f"trainer_common.reference: {reference} has other tokens than the model that is tuned, "
            f"{base}: {len(its)} against {len(ours)}, and {other[0]!r} is token {other[1]} of one "
            "alone; a divergence is of the same tokens. Give an earlier checkpoint of the model, "
            f"or set it to {START!r}"
        )
    config = load_config(reference)
    longest = getattr(config and config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and longest < max_model_len:
        raise ConfigError(
            f"trainer_common.reference: {reference} was made for at most {longest} tokens "
            f"(max_position_embeddings), but rollout.max_model_len is {max_model_len}; lower that, "
            "or give another reference"
        )


def load_reference(
    settings: Settings, base: str, *, reference: str | None, is_resumed: bool
) -> PreTrainedModel | None:
    """For the trainer: from `reference` where there is one, else what the run started from, `base`.

    None where no divergence is measured, where the model without its adapter is the same, or where
    the weights that are trained still are.
    """
    common = settings.trainer_common
    if not (common.use_kl_loss or common.algorithm.use_kl_in_reward):
        return None
    if reference is not None:
        return load_frozen(settings.model, reference)
    if is_resumed and settings.model.lora.rank is None:
        return load_frozen(settings.model, base)
    return None


def keep_reference(
    run: Run,
    base: str,
    loaded: LoadedEngine,
    *,
    kept: PreTrainedModel | None,
    is_resumed: bool,
) -> ReferenceWeights:
    """Keep a copy where the settings name the reference: a workflow may ask for it after the first
    update only. The trainer's own, `kept`, serves for both."""
    names_it = run.settings.rollout.untrained_model.model == REFERENCE
    if kept is None and names_it and find_reference(run) is None:
        model = loaded.policy.model
        kept = load_frozen(run.settings.model, base) if is_resumed else frozen_copy(model)
    return ReferenceWeights(run, loaded, kept)


def load_frozen(settings: ModelSettings, path: str) -> PreTrainedModel:
    """The weights in the folder or of that hub name, not to be trained. Raises as `load_policy`."""
    policy = load_policy(
        path, dtype=settings.dtype, device=settings.device, use_liger=settings.use_liger
    )
    return policy.model.eval().requires_grad_(False)
