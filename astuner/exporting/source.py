"""Loads what is to be exported: the model as it was trained, with what it makes of the probes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from astuner.errors import BackboneError, ConfigError, RequestError
from astuner.exporting.checkpoint_named import NamedCheckpoint
from astuner.exporting.format import ExportProbe, ExportSource, ProbeReading
from astuner.exporting.probes import make_probes, read_probe
from astuner.exporting.template_defaults import with_defaults
from astuner.inference.template import ChatTemplate
from astuner.models.manifest import read_object

if TYPE_CHECKING:
    from astuner.models.device import DtypeName

_COMPUTED = ("bfloat16", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingOrder:
    """How a checkpoint is to be loaded."""

    checkpoint: NamedCheckpoint
    base: str | None
    """Folder or hub name of the model that was tuned, in place of what the checkpoint says."""
    device: str


def load_source(order: LoadingOrder) -> ExportSource:
    """Load the checkpoint and see what it makes of the probes.

    Raises ConfigError for an adapter without its base, one of another base, quantized weights, a
    tokenizer without chat template; BackboneError where loading fails.
    """
    from transformers import AutoTokenizer

    from astuner.models.end_ids import end_ids

    checkpoint = order.checkpoint
    base = base_of(order)
    dtype = compute_dtype(checkpoint)
    model = _load_model(order, base, dtype)
    # Anew, as the run began with it: loading a policy chooses padding.
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    kwargs = checkpoint.setting("rollout.chat_template_kwargs") or {}
    template = _template(checkpoint, tokenizer, end_ids(model.generation_config), kwargs)
    written = AutoTokenizer.from_pretrained(checkpoint.folder)
    written.chat_template = with_defaults(written.chat_template, kwargs)
    probes = make_probes(model, written, template)
    return ExportSource(
        folder=checkpoint.folder,
        model=model,
        tokenizer=written,
        dtype=dtype,
        device=str(model.device),
        stop_ids=sorted(template.stop_ids),
        base=base,
        base_at_hand=find_base(order),
        probes=probes,
        base_readings=_without_adapter(model, written, probes),
    )


def _without_adapter(
    model: Any, tokenizer: Any, probes: Sequence[ExportProbe]
) -> list[ProbeReading] | None:
    from astuner.models.adapter import adapter_off, has_adapter

    if not has_adapter(model):
        return None
    with adapter_off(model):
        return [read_probe(model, tokenizer, probe) for probe in probes]


def base_of(order: LoadingOrder) -> str | None:
    """Folder or hub name of the model that was tuned; None where nothing tells.

    What the user names comes first, then what the run was given, then what the adapter says.
    """
    checkpoint = order.checkpoint
    named = order.base or checkpoint.setting("model.path")
    if named is None and checkpoint.is_adapter:
        from astuner.models.adapter import read_adapter_config

        named = read_adapter_config(checkpoint.folder).get("base_model_name_or_path")
    return named


def find_base(order: LoadingOrder) -> str | None:
    """The folder of the base, or its hub name; None where it is not known or is a folder that is
    gone. A revision that the run named is brought from the hub."""
    base = base_of(order)
    if base is None or Path(base).expanduser().is_dir():
        return base
    if Path(base).is_absolute() or base.startswith((".", "~")):
        return None
    revision = None if order.base else order.checkpoint.setting("model.revision")
    if revision is None:
        return base
    from astuner.models.hub import fetch_revision

    return str(fetch_revision(base, revision))


def written_architectures(checkpoint: NamedCheckpoint) -> Sequence[str] | None:
    """As config.json names them; None for an adapter, whose base may not be at hand yet.

    Raises BackboneError for a file that is damaged.
    """
    file = checkpoint.folder / "config.json"
    return _read(file).get("architectures") or () if file.is_file() else None


def compute_dtype(checkpoint: NamedCheckpoint) -> str:
    """The type that the checkpoint's model computes in: that of its weights."""
    named = checkpoint.setting("model.dtype")
    found = named if named in _COMPUTED else _written_dtype(checkpoint.folder)
    # Everything that float16 holds is a float32, in which it is computed here.
    return found if found in _COMPUTED else "float32"


def _written_dtype(folder: Path) -> str | None:
    if (folder / "config.json").is_file():
        config = _read(folder / "config.json")
        text = config.get("text_config") or {}
        return next(
            (c[key] for c in (config, text) for key in ("dtype", "torch_dtype") if c.get(key)), None
        )
    from astuner.models.adapter import weights_dtype

    return weights_dtype(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"{path} is damaged: {error}") from error


def _load_model(order: LoadingOrder, base: str | None, dtype: str) -> Any:
    from astuner.models.adapter import put_adapter
    from astuner.models.load import load_policy

    checkpoint = order.checkpoint
    path = str(checkpoint.folder)
    if checkpoint.is_adapter:
        path = _base_at_hand(order, base)
    loaded = load_policy(path, dtype=cast("DtypeName", dtype), device=order.device, use_liger=False)
    if checkpoint.is_adapter:
        put_adapter(loaded.model, checkpoint.folder)
    loaded.model.requires_grad_(False)
    return loaded.model.eval()


def _base_at_hand(order: LoadingOrder, base: str | None) -> str:
    found = find_base(order)
    if found is None:
        raise ConfigError(
            f"export: {order.checkpoint.folder} holds an adapter only, and its base "
            f"{base or 'is not named in it'} is not on this machine; name the folder or the hub "
            "name of the model that was tuned by --base"
        )
    return found


def _template(
    checkpoint: NamedCheckpoint,
    tokenizer: Any,
    stop_ids: tuple[int, ...],
    kwargs: Mapping[str, Any],
) -> ChatTemplate:
    try:
        return ChatTemplate(tokenizer, extra_stop_ids=stop_ids, kwargs=kwargs)
    except (ConfigError, RequestError) as error:
        raise ConfigError(
            f"export: the chat template of {checkpoint.folder} cannot be used: {error}"
        ) from error
