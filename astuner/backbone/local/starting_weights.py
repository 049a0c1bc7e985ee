"""The weights that a run started from, frozen, for whom a copy of them is loaded or kept."""

from transformers import PreTrainedModel

from astuner.backbone.local.serve import LoadedEngine
from astuner.config.schema import Settings
from astuner.config.sections.model import ModelSettings
from astuner.engine.reference import frozen_copy
from astuner.errors import ConfigError
from astuner.inference.shapes.routed import REFERENCE
from astuner.models.load import load_policy


class StartingWeights:
    """Owns the copy; most runs never ask for it, and have none."""

    def __init__(self, loaded: LoadedEngine, kept: PreTrainedModel | None) -> None:
        """`kept` is a copy that there is already; `loaded` has the weights that are trained."""
        self._loaded = loaded
        self._kept = kept

    def find(self) -> PreTrainedModel:
        """The frozen weights. Raises ConfigError where training has changed the only copy."""
        if self._kept is None:
            version = self._loaded.engine.weight_version
            if version > 0:
                raise ConfigError(
                    "debug_model 'reference' was first asked for when the weights had changed "
                    f"already (weight version {version}); set "
                    "rollout.untrained_model.model: reference, so that a copy of the starting "
                    "weights is kept from the beginning"
                )
            self._kept = frozen_copy(self._loaded.policy.model)
        return self._kept


def load_reference(settings: Settings, base: str) -> PreTrainedModel | None:
    """For the trainer of a resumed run, from the folder or hub name `base`.

    None where no divergence is measured, or where the model without its adapter is the same.
    """
    common = settings.trainer_common
    measures_divergence = common.use_kl_loss or common.algorithm.use_kl_in_reward
    if not measures_divergence or settings.model.lora.rank is not None:
        return None
    return _load_frozen(settings.model, base)


def keep_starting_weights(
    settings: Settings,
    base: str,
    loaded: LoadedEngine,
    *,
    reference: PreTrainedModel | None,
    is_resumed: bool,
) -> StartingWeights:
    """Keep a copy where the settings name the reference: a workflow may ask for it after the first
    update only. The trainer's own `reference` serves for both."""
    kept = reference
    if kept is None and settings.rollout.untrained_model.model == REFERENCE:
        model = loaded.policy.model
        kept = _load_frozen(settings.model, base) if is_resumed else frozen_copy(model)
    return StartingWeights(loaded, kept)


def _load_frozen(settings: ModelSettings, base: str) -> PreTrainedModel:
    policy = load_policy(
        base, dtype=settings.dtype, device=settings.device, use_liger=settings.use_liger
    )
    return policy.model.eval().requires_grad_(False)
