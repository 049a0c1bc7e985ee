"""Loads a model with its template and the engine that samples from it."""

from dataclasses import dataclass

from astuner.backbone.local.engine import ContinuousBatchingEngine, EngineLimits
from astuner.backbone.local.model import LoadedModel, load_policy
from astuner.backbone.run import Run
from astuner.errors import ConfigError
from astuner.inference.template import ChatTemplate
from astuner.task_reader.local_path import find_path


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """A model that can be asked; `policy.model` is the very module that training changes."""

    policy: LoadedModel
    template: ChatTemplate
    engine: ContinuousBatchingEngine


def load_engine(run: Run) -> LoadedEngine:
    """Load model.path. Raises ConfigError or BackboneError when that is not a usable chat model."""
    model, rollout = run.settings.model, run.settings.rollout
    if model.path is None:
        raise ConfigError("model.path is not set; give a hub name or a folder")
    folder = find_path(model.path, run.search_dirs)
    policy = load_policy(str(folder or model.path), dtype=model.dtype)
    _check_context(policy, rollout.max_model_len)
    limits = EngineLimits(max_num_seqs=rollout.max_num_seqs, max_model_len=rollout.max_model_len)
    engine = ContinuousBatchingEngine(policy.model, limits, seed=rollout.seed)
    template = ChatTemplate(policy.tokenizer, extra_stop_ids=_end_ids(policy))
    return LoadedEngine(policy=policy, template=template, engine=engine)


def _check_context(policy: LoadedModel, max_model_len: int) -> None:
    longest = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and max_model_len > longest:
        raise ConfigError(
            f"rollout.max_model_len is {max_model_len}, but {policy.name_or_path} was made for at "
            f"most {longest} tokens (max_position_embeddings); lower it"
        )


def _end_ids(policy: LoadedModel) -> tuple[int, ...]:
    """Tokens at which the model's own generation settings end a reply."""
    ids = getattr(policy.model.generation_config, "eos_token_id", None)
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)
