"""Carries out an export: load, write, load again, compare, and only then give it its name.

Never two copies of the model at a time: the trained one is let go before the written one is loaded,
and that before the base.
"""

import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from astuner.console import RunConsole
from astuner.errors import BackboneError, ConfigError
from astuner.exporting.adapter_folder import AdapterFolder, check_is_adapter
from astuner.exporting.card import CardFacts, astuner_version, write_card
from astuner.exporting.checkpoint_named import NamedCheckpoint, find_checkpoint
from astuner.exporting.compare import agreement_of, coarser
from astuner.exporting.format import ExportAgreement, ExportFormat, ExportRefused, ExportSource
from astuner.exporting.gguf import QUANTIZATIONS, GgufFile, gguf_file
from astuner.exporting.gguf_conversion import check_architecture
from astuner.exporting.model_folder import DTYPES, ModelFolder
from astuner.exporting.ollama import OllamaFolder
from astuner.exporting.probes import read_probe
from astuner.exporting.recorded import RecordedGap, check_recorded
from astuner.exporting.reply_settings import ReplySettings
from astuner.exporting.source import LoadingOrder, load_source, written_architectures
from astuner.models.manifest import file_entry, is_checkpoint, write_json
from astuner.models.whole_folder import FolderWords, check_room, new_folder, sole_maker

EXPORT_FILE = "export.json"
_FORMAT = 1
_SAME = 1e-6
"""Nats: more than this no two passes of the same weights in the same process are apart."""
_LOSS_TO_TELL = 0.25
"""Of what training changed: the share that rounding took."""
_WORDS = FolderWords(
    work="the export",
    instead="give another by --out",
    elsewhere="give a folder on another disk by --out",
    go_on="export again; nothing of it is left",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOrder:
    """What is to be exported, and how."""

    checkpoint: str
    """A folder, or a run as `astuner show` names it."""
    to: str
    """A key of FORMATS."""
    out: Path | None = None
    """Must not exist; None: named after the run, the step and the format, in this folder."""
    dtype: str | None = None
    """Of what is written; None: that of the checkpoint."""
    quantize: str | None = None
    """Of GGUF."""
    base: str | None = None
    """Folder or hub name of the model that was tuned; None: as the run names it."""
    device: str = "auto"
    exp_dir: Path = Path("launcher_record")
    settings: Mapping[str, Any] | None = None
    """The `astuner` section to take for the run's, where the checkpoint does not know it."""
    allow_unchanged: bool = False
    """Export also what computes the same as the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An export that is verified and lies in its place."""

    folder: Path
    to: str
    checkpoint: Path
    step: int | None
    base: str | None
    dtype: str
    """That the checkpoint computes in."""
    agreement: ExportAgreement
    change: ExportAgreement | None
    """How far the base is from what was trained; None where it is not at hand."""
    recorded: RecordedGap | None
    """How far the checkpoint is from what the run sampled; None where nothing is recorded of it."""
    num_bytes: int
    seconds: float
    peak_bytes: int
    """The most memory that this process held until its end."""
    warnings: tuple[str, ...]


MakeFormat = Callable[[ExportOrder, NamedCheckpoint], ExportFormat]


def _model_folder(order: ExportOrder, checkpoint: NamedCheckpoint) -> ExportFormat:
    _check_dtype(order)
    if order.to == "merged":
        check_is_adapter(checkpoint.folder)
    return ModelFolder(name=order.to, dtype=order.dtype, replies=_replies(checkpoint))


def _adapter_folder(order: ExportOrder, checkpoint: NamedCheckpoint) -> ExportFormat:
    _check_dtype(order)
    check_is_adapter(checkpoint.folder)
    return AdapterFolder(dtype=order.dtype, replies=_replies(checkpoint))


def _gguf_file(order: ExportOrder, checkpoint: NamedCheckpoint) -> ExportFormat:
    _check_no_dtype(order)
    return _converted(order, checkpoint)


def _converted(order: ExportOrder, checkpoint: NamedCheckpoint) -> GgufFile:
    """Refuses before weights are read what the converter will refuse."""
    file = gguf_file(order.quantize, _replies(checkpoint))
    architectures = written_architectures(checkpoint)
    if architectures is not None:
        check_architecture(architectures)
    return file


def _ollama_folder(order: ExportOrder, checkpoint: NamedCheckpoint) -> ExportFormat:
    _check_no_dtype(order)
    return OllamaFolder(
        file=_converted(order, checkpoint),
        num_context=checkpoint.setting("rollout.max_model_len"),
    )


FORMATS: Mapping[str, MakeFormat] = {
    "hf": _model_folder,
    "merged": _model_folder,
    "adapter": _adapter_folder,
    "gguf": _gguf_file,
    "ollama": _ollama_folder,
}
"""By the name that `--to` gives."""


def export(order: ExportOrder, console: RunConsole) -> Exported:
    """Write the checkpoint in another form, and verify it in that form's own runtime.

    Raises ConfigError for what the user can mend, BackboneError for a checkpoint that is torn or a
    disk that refuses, ExportRefused where what was written does not compute what was trained.
    """
    checkpoint = _with_settings(find_checkpoint(order.checkpoint, order.exp_dir), order)
    if checkpoint.choice is not None:
        console.say(f"exporting {checkpoint.choice}: {checkpoint.folder}")
    form = _format_of(order)(order, checkpoint)
    named = (order.out or Path(f"{checkpoint.title}-{order.to}")).expanduser()
    _check_is_free(named.absolute())
    with sole_maker(named.absolute(), words=_WORDS):
        return _carry_out(order, checkpoint, form, named, console)


def _carry_out(
    order: ExportOrder,
    checkpoint: NamedCheckpoint,
    form: ExportFormat,
    named: Path,
    console: RunConsole,
) -> Exported:
    """As `export`, into the folder `named`, which nobody else makes."""
    started, folder = time.monotonic(), named.absolute()
    console.phase(f"loading {checkpoint.folder}")
    source = load_source(LoadingOrder(checkpoint=checkpoint, base=order.base, device=order.device))
    recorded = check_recorded(checkpoint, source.model, dtype=source.dtype)
    num_bytes = form.num_bytes(source)
    check_room(folder, num_bytes, words=_WORDS)
    with new_folder(folder, num_bytes=num_bytes, words=_WORDS) as partial:
        console.say(f"writing {folder}")
        form.write(source, partial)
        source = replace(source, model=None)
        gc.collect()  # behind the last name of the model, whose layers refer to each other
        console.say("verifying: loading it again, and asking it the same")
        agreement = _checked(form, source, partial)
        change = _change(source)
        warnings = _check_change(form, agreement, change, order)
        exported = Exported(
            folder=folder,
            to=order.to,
            checkpoint=checkpoint.folder,
            step=checkpoint.step,
            base=source.base,
            dtype=source.dtype,
            agreement=agreement,
            change=change,
            recorded=recorded,
            num_bytes=sum(p.stat().st_size for p in partial.rglob("*") if p.is_file()),
            seconds=time.monotonic() - started,
            peak_bytes=_peak_bytes(),
            warnings=tuple(warnings),
        )
        facts = CardFacts(
            checkpoint=checkpoint,
            to=order.to,
            base=source.base,
            agreement=agreement,
            change=change,
            recorded=recorded,
            usage=form.usage(source, named),
            warnings=exported.warnings,
        )
        write_card(partial, facts)
        _write_record(partial, exported)
    return exported


def _format_of(order: ExportOrder) -> MakeFormat:
    if order.to not in FORMATS:
        raise ConfigError(f"export --to {order.to}: not known; use one of {', '.join(FORMATS)}")
    if order.quantize is not None and order.to in ("hf", "merged", "adapter"):
        raise ConfigError(
            f"export --quantize {order.quantize}: --to {order.to} writes whole numbers of a type; "
            "use --dtype, or --to gguf. vLLM quantizes a model as it loads it: vllm serve FOLDER "
            "--quantization fp8"
        )
    return FORMATS[order.to]


def _check_dtype(order: ExportOrder) -> None:
    if order.dtype is not None and order.dtype not in DTYPES:
        raise ConfigError(
            f"export --dtype {order.dtype}: --to {order.to} writes {', '.join(DTYPES)}; vLLM "
            "quantizes a model as it loads it (vllm serve FOLDER --quantization fp8), and --to "
            "gguf has quantized types of its own (--quantize)"
        )


def _check_no_dtype(order: ExportOrder) -> None:
    if order.dtype is not None:
        raise ConfigError(
            f"export --dtype {order.dtype}: the types of --to {order.to} are named by --quantize: "
            f"{', '.join(QUANTIZATIONS)}"
        )


def _check_is_free(folder: Path) -> None:
    if os.path.lexists(folder):  # a symbolic link to nothing, too
        raise ConfigError(
            f"export: {folder} exists already and is not overwritten; move it away, or give "
            "another by --out"
        )
    around = next((path for path in folder.resolve().parents if is_checkpoint(path)), None)
    if around is not None:
        raise ConfigError(
            f"export: {folder} lies in the checkpoint {around}, which is to stay as it was "
            "written and may be pruned; give another folder by --out"
        )


def _with_settings(checkpoint: NamedCheckpoint, order: ExportOrder) -> NamedCheckpoint:
    if order.settings is None:
        return checkpoint
    return replace(checkpoint, settings=order.settings)


def _replies(checkpoint: NamedCheckpoint) -> ReplySettings | None:
    return ReplySettings.of_run(checkpoint.settings)


def _checked(form: ExportFormat, source: ExportSource, folder: Path) -> ExportAgreement:
    try:
        return form.check(source, folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ExportRefused(
            f"the {form.name} export is refused: its own runtime cannot load it: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:500]}. Nothing of it is kept"
        ) from error


def _change(source: ExportSource) -> ExportAgreement | None:
    """How far the base is from what was trained; None where it cannot be had."""
    readings = source.base_readings
    if readings is None and source.base_at_hand is not None:
        from astuner.models.load import load_policy

        try:
            base = load_policy(
                source.base_at_hand,
                dtype=cast(Any, source.dtype),
                device=source.device,
                use_liger=False,
            ).model
        except (BackboneError, ConfigError):  # it may be gone from the hub, or out of reach
            return None
        readings = [read_probe(base, source.tokenizer, probe) for probe in source.probes]
    if readings is None:
        return None
    return agreement_of(
        source.probes,
        readings,
        runtime="the base",
        rounding=coarser(source.dtype, source.dtype),
        decode=source.tokenizer.decode,
        other="the base",
    )


def _check_change(
    form: ExportFormat,
    agreement: ExportAgreement,
    change: ExportAgreement | None,
    order: ExportOrder,
) -> list[str]:
    """Raise ExportRefused for an export that is the base again; warnings where it comes near."""
    if change is None:
        return [
            "the base is not at hand, so that nobody looked whether the export differs from it; "
            "name it by --base"
        ]
    if change.max_gap <= _SAME and change.first_difference is None:
        if order.allow_unchanged:
            return ["the checkpoint computes the same as its base on all probes"]
        raise ExportRefused(
            f"the {form.name} export is refused: the checkpoint computes the same as its base on "
            "all probes, so that there is nothing to export. Was it saved before the first update, "
            "or with a learning rate of 0? --allow-unchanged exports it anyway"
        )
    finer = "--quantize f32" if form.name in ("gguf", "ollama") else "--dtype float32"
    share = agreement.mean_gap / change.mean_gap if change.mean_gap else 0.0
    told = (
        f"training moved the log-probabilities by {change.mean_gap:.2g} nats a token, and the "
        f"export is {agreement.mean_gap:.2g} away from what was trained"
    )
    if share >= 1 and not form.is_quantized:
        raise ExportRefused(
            f"the {form.name} export is refused: it is no nearer to what was trained than to the "
            f"base: {told}. Export with {finer}, or an adapter by --to adapter"
        )
    if share >= _LOSS_TO_TELL:
        return [f"rounding takes much of what was learned: {told}; {finer} keeps it"]
    return []


def _write_record(folder: Path, exported: Exported) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {path.relative_to(folder).as_posix(): file_entry(path) for path in files}
    record = as_json(exported) | {"format": _FORMAT, "astuner": astuner_version(), "files": entries}
    write_json(folder / EXPORT_FILE, record)


def as_json(exported: Exported) -> dict[str, Any]:
    """As it stands in export.json, save for the digests."""
    record = asdict(exported)
    return record | {key: str(record[key]) for key in ("folder", "checkpoint")}


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
