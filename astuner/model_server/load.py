"""Loads the models of an order, each base once, with an engine for it and for each adapter.

Engines over one module pass in turn, and the adapter is switched between their passes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from astuner.backbone.local.serve import engine_limits
from astuner.config.sections.model import ModelSettings
from astuner.config.sections.rollout import RolloutSettings
from astuner.engine.attendance import Attendance
from astuner.engine.continuous import ContinuousBatchingEngine
from astuner.engine.limits import EngineLimits
from astuner.errors import ConfigError, RequestError
from astuner.inference.template import ChatTemplate
from astuner.model_server.daily_template import DailyTemplate
from astuner.model_server.distribution import own_distribution
from astuner.model_server.order import AdapterOrder, BaseOrder, training_of
from astuner.model_server.served_model import ServedModel
from astuner.models.adapter_set import AdapterSet
from astuner.models.checkpoint import read_record
from astuner.models.end_ids import end_ids
from astuner.models.load import LoadedModel, load_policy
from astuner.models.manifest import is_checkpoint
from astuner.models.supported import check_supported

_CONCURRENT, _CONCURRENT_ON_GPU = 32, 256
"""Replies written together, where the memory for keys and values holds them: a GPU computes them
side by side, while on a CPU each makes a pass longer for all."""
_SAMPLED_BYTES = 1 << 20
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOrder:
    """How models are loaded."""

    model: ModelSettings
    rollout: RolloutSettings
    max_len: int
    """Most tokens of prompt and reply together; less where a model was made for less."""
    max_concurrent: int | None
    """Replies that one engine writes together; None: as many as suit the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModels:
    """All that is served, with the engines that are to be opened for it."""

    models: Sequence[ServedModel]
    engines: Sequence[ContinuousBatchingEngine]


def load_models(
    orders: Sequence[BaseOrder], order: ServingOrder, *, say: Callable[[str], None]
) -> LoadedModels:
    """Raises ConfigError or BackboneError for what cannot be served."""
    for base in orders:
        _check_whole(base)
        check_supported(base.source)
    num_engines = sum(1 + len(base.adapters) for base in orders)
    attendance = Attendance(wait_seconds=0, gives_turns=num_engines > 1)
    models: list[ServedModel] = []
    for base in orders:
        say(f"loading {base.source}")
        models += _load_base(base, order, attendance, num_engines)
    engines = [model.engine for model in models]
    assert all(isinstance(engine, ContinuousBatchingEngine) for engine in engines)
    return LoadedModels(models=models, engines=engines)  # type: ignore[arg-type]  # just seen


def _load_base(
    base: BaseOrder, order: ServingOrder, attendance: Attendance, num_engines: int
) -> Iterator[ServedModel]:
    settings = order.model
    policy = load_policy(
        base.source, dtype=settings.dtype, device=settings.device, use_liger=settings.use_liger
    )
    policy.model.requires_grad_(False)
    adapters = AdapterSet(policy.model)
    for adapter in base.adapters:
        adapters.add(adapter.name, adapter.folder)
    limits = _limits(policy, order, num_engines)

    def make_engine(adapter: str | None) -> ContinuousBatchingEngine:
        return ContinuousBatchingEngine(
            policy.model,
            limits,
            seed=order.rollout.seed,
            attendance=attendance,
            before_pass=partial(adapters.switch, adapter) if base.adapters else None,
        )

    folder = Path(base.source)
    digest = _digest(folder) if folder.is_dir() else base.source
    yield _served(base.name, policy, policy.tokenizer, folder, make_engine(None), limits, digest)
    for adapter in base.adapters:
        tokenizer = _tokenizer_of(adapter, policy)
        of_adapter = f"{digest}+{_digest(adapter.folder)}"
        engine = make_engine(adapter.name)
        yield _served(
            adapter.name,
            policy,
            tokenizer,
            adapter.folder,
            engine,
            limits,
            of_adapter,
            base=base.name,
        )


def _served(
    name: str,
    policy: LoadedModel,
    tokenizer: Any,
    folder: Path,
    engine: ContinuousBatchingEngine,
    limits: EngineLimits,
    weights: str,
    *,
    base: str | None = None,
) -> ServedModel:
    trained = training_of(folder)
    config = policy.model.generation_config
    settings = config.to_diff_dict() if config is not None else {}
    try:
        template = ChatTemplate(tokenizer, extra_stop_ids=end_ids(config))
        template = template.with_kwargs(trained.get("chat_template_kwargs") or {})
    except (ConfigError, RequestError) as error:
        raise ConfigError(
            f"the chat template of {folder} cannot be used: {error}; correct its "
            "chat_template.jinja, or serve another model"
        ) from error
    return ServedModel(
        name=name,
        engine=engine,
        template=DailyTemplate(template),
        max_len=limits.max_model_len,
        own=own_distribution(settings, trained),
        weights=weights,
        base=base,
    )


def _tokenizer_of(adapter: AdapterOrder, policy: LoadedModel) -> Any:
    """With the template that the adapter was trained with, where its folder has one."""
    if not (adapter.folder / "tokenizer_config.json").is_file():
        return policy.tokenizer
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(adapter.folder)
    if own.get_vocab() != policy.tokenizer.get_vocab():
        raise ConfigError(
            f"adapter {adapter.folder}: its tokenizer has other tokens than {policy.name_or_path}; "
            "it was trained on another base"
        )
    return own if own.chat_template else policy.tokenizer


def _limits(policy: LoadedModel, order: ServingOrder, num_engines: int) -> EngineLimits:
    config: Any = policy.model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or order.max_len
    suited = _CONCURRENT_ON_GPU if policy.device.type == "cuda" else _CONCURRENT
    changes = {
        "max_model_len": min(order.max_len, longest),
        "max_num_seqs": order.max_concurrent or suited,
    }
    rollout = order.rollout.model_copy(update=changes)
    return engine_limits(policy, rollout, num_engines=num_engines)


def _check_whole(base: BaseOrder) -> None:
    for folder in (Path(base.source), *(adapter.folder for adapter in base.adapters)):
        if folder.is_dir() and is_checkpoint(folder):
            read_record(folder)


def _digest(folder: Path) -> str:
    """Of the folder's weights: names, sizes, and both ends of each file."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(one for kind in _WEIGHTS for one in folder.glob(kind)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLED_BYTES))
            file.seek(max(0, size - _SAMPLED_BYTES))
            digest.update(file.read(_SAMPLED_BYTES))
    return f"{folder.name}@{digest.hexdigest()}"
