"""What the user gave: the YAML file with the line of every key, and the `key=value` overrides.

Owns reading them, renaming what older and newer releases called by another name, and saying where
a setting came from. Knows nothing of defaults or of types.
"""

import copy
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from astuner.config.bounded_yaml import compose_bounded
from astuner.config.secret import (
    is_secret,
    mask_text,
    names_a_secret,
    show_override,
    without_secrets,
)
from astuner.errors import ConfigError

RENAMED_KEYS: Mapping[str, str] = {
    "astuner.rollout.user_workflow": "astuner.rollout.agentscope_workflow",
    "astuner.rollout.force_disable_toolcalls": "astuner.rollout.agentscope_disable_toolcalls",
    "astuner.rollout.n_vllm_engine": "astuner.trainer_common.trinity_only__n_vllm_engine",
    "astuner.task_reader.dataset_file": "astuner.task_reader.jsonl_dataset_file",
    "astuner.task_reader.data_generation.query_reader.dataset_file": (
        "astuner.task_reader.data_generation.query_reader.jsonl_dataset_file"
    ),
    "astuner.task_reader.data_generation.deduplication_filter": (
        "astuner.task_reader.data_generation.filter"
    ),
    "astuner.task_judge.rubrics_auto_grader.dataset_file": (
        "astuner.task_judge.rubrics_auto_grader.jsonl_dataset_file"
    ),
}
"""Key or section of another release -> its name here."""

_RENAMED_READERS = {"dataset_file": "jsonl_dataset_file"}
RENAMED_VALUES: Mapping[str, Mapping[str, str]] = {
    "astuner.task_reader.type": _RENAMED_READERS,
    "astuner.task_reader.data_generation.query_reader.type": _RENAMED_READERS,
    "astuner.task_judge.rubrics_auto_grader.input_data_type": _RENAMED_READERS,
    "astuner.trainer_common.kl_loss_type": {"kl": "k1", "mse": "k2"},
}
"""Key -> value of another release or of verl -> its name here."""

RENAMED_DEFAULTS: Mapping[str, str] = {"astune_default": "astuner_default"}
"""Entry of the `defaults` list of another release -> its name here."""

ROOT_RENAMES: Mapping[str, str] = {"ajet": "astuner", "astune": "astuner"}
"""Root section of another release -> its name here. Refused, with the name to write."""

_OPEN_ROOTS = ("astuner.", "verl.", "trinity.")
"""Below these a key may be given with or without hydra's '+'; unknown ones are found elsewhere."""

_UNQUOTED_CLASS = re.compile(r"^([^=]+=)([^'\"\s]+->\w+)$")
"""key=package.module->Class: '>' is no character of hydra's grammar outside quotes."""

_ABSENT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfFile:
    """The user's YAML file, with the names of this release."""

    path: Path
    """As the user wrote it; messages show it."""
    mapping: dict[str, Any]
    lines: dict[str, int]
    """Dotted key -> its line, counted from 1; 0 for a key that stands in no file. Items of a list
    have their index as a key."""

    def place(self, key: str) -> str:
        """As messages say it: conf.yaml:14, without the number where there is no line."""
        line = self.lines.get(key)
        return f"{self.path}:{line}" if line else str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One `key=value`, `+key=value`, `++key=value` or `~key`, with the names of this release."""

    text: str
    """As hydra shall read it."""
    shown: str
    """As the user wrote it, without secrets; messages show it."""
    key: str
    value: Any
    """None for a removed key."""
    is_removal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UserInput:
    """Everything the user said about the configuration."""

    file: ConfFile
    overrides: tuple[Override, ...]

    def origin(self, key: str) -> str | None:
        """Where `key` was set: "conf.yaml:14" or "override 'key=value'"; None if not by these."""
        for override in reversed(self.overrides):
            if key == override.key or key.startswith(f"{override.key}."):
                return f"override {override.shown!r}"
        if key in self.file.lines:
            return self.file.place(key)
        parent, _, last = key.rpartition(".")
        return self.origin(parent) if last.isdecimal() else None

    def keys(self) -> frozenset[str]:
        """The dotted keys that were given a value, sections left out."""
        keys = set(flatten(self.file.mapping))
        for override in self.overrides:
            if override.is_removal:
                keys -= {k for k in keys if k == override.key or k.startswith(f"{override.key}.")}
            else:
                keys.update(flatten({override.key: override.value}))
        return frozenset(keys)


def flatten(mapping: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}. An empty mapping below the root is a value."""
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        flat.update(flatten(value, key) if isinstance(value, Mapping) and value else {key: value})
    return flat


def read_conf_file(path: Path) -> ConfFile:
    """Read the user's YAML. Raises ConfigError when it is missing or is not a mapping of keys."""
    text = _read_text(path)
    lines: dict[str, int] = {}
    try:
        node = compose_bounded(text, path)
        lines = dict(_key_lines(node, path=path)) if node else {}
        mapping = OmegaConf.to_container(OmegaConf.create(text)) if node else {}
    except yaml.YAMLError as error:
        raise ConfigError(_describe_yaml_error(path, error)) from error
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        place = f"{path}:{lines[key]}: {key}" if key in lines else str(path)
        reason = "" if is_secret(key) else f": {mask_text(first_line(error))}"
        raise ConfigError(
            f"{place}: cannot be used as a configuration{reason}; where ${{ is plain text, write "
            "\\${ for it"
        ) from error
    if not isinstance(mapping, dict) or isinstance(node, yaml.ScalarNode):
        raise ConfigError(
            f"{path}:1: expected a mapping such as 'astuner:', found {_start(text)!r}"
        )
    mapping = {str(key): value for key, value in mapping.items()}
    return _rename_keys(ConfFile(path=path, mapping=mapping, lines=lines))


def make_conf_file(name: str, mapping: Mapping[str, Any]) -> ConfFile:
    """Settings that stand in no file; messages call them `name`."""
    copied = copy.deepcopy(dict(mapping))
    return _rename_keys(
        ConfFile(path=Path(name), mapping=copied, lines=_keys_without_lines(copied))
    )


def _keys_without_lines(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, int]:
    lines: dict[str, int] = {}
    for name, value in mapping.items():
        lines[f"{prefix}{name}"] = 0
        if isinstance(value, Mapping):
            lines |= _keys_without_lines(value, f"{prefix}{name}.")
    return lines


def text_override(key: str, text: str) -> str:
    """An override that sets `key` to exactly `text`, whatever characters it has."""
    # What would be an interpolation, with the backslashes before it, which would then count too.
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return f"{key}={QuotedString(text=plain, quote=Quote.single).with_quotes()}"


def read_override(written: str) -> Override:
    """Read one override in hydra's grammar; a path to a class needs no quotes in addition.

    Raises ConfigError when it does not follow the grammar.
    """
    shown = show_override(written)
    quoted = _UNQUOTED_CLASS.sub(r"\1'\2'", written)
    try:
        parsed = OverridesParser.create().parse_override(quoted)
        value = parsed.value()
    except HydraException as error:
        reason = first_line(error) if shown == written else "its value does not follow the grammar"
        raise ConfigError(
            f"override {shown!r} cannot be read: {reason}; "
            "write key=value, for example astuner.rollout.temperature=0.5; a value with brackets, "
            "spaces or other signs stands in quotes: \"key='train[:100]'\""
        ) from error
    if parsed.is_sweep_override():
        raise ConfigError(
            f"override {shown!r} gives several values, a run has one; write a list as "
            f"key=[a,b] and text with a comma as key='\"a,b\"'"
        )
    old_key = parsed.key_or_group
    key = renamed(old_key)
    text = quoted.replace(old_key, key, 1)
    if key.startswith(_OPEN_ROOTS) and not parsed.is_delete():
        text = f"++{text.lstrip('+')}"
    return Override(text=text, shown=shown, key=key, value=value, is_removal=parsed.is_delete())


def renamed(key: str) -> str:
    """`key` with the name that it, or a section around it, has in this release."""
    for old, new in RENAMED_KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(_describe_missing_file(path)) from error
    except IsADirectoryError as error:
        raise ConfigError(
            f"{path}: is a folder; name a YAML file; that folder holds {_yaml_files(path)}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text at byte {error.start}") from error


def _describe_missing_file(path: Path) -> str:
    said = f"{path}: no such file; looked for {path.absolute()} from {Path.cwd()}"
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"{said}; the folder {folder} does not exist either"
    return f"{said}; that folder holds {_yaml_files(folder, path.name)}"


def _yaml_files(folder: Path, wanted: str = "") -> str:
    names = sorted(file.name for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    near = difflib.get_close_matches(wanted, names, n=3) or names[:5]
    return ", ".join(near) if near else "no YAML file"


def _describe_yaml_error(path: Path, error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{path}: is not YAML: {error}"
    mark = error.problem_mark
    context = f" {error.context}" if error.context else ""
    if context and error.context_mark and error.context_mark.line < mark.line:
        context += f", which began on line {error.context_mark.line + 1}"
    snippet = mark.get_snippet() or ""
    shown = "" if names_a_secret(snippet) else f"\n{mask_text(snippet)}"
    return f"{path}:{mark.line + 1}:{mark.column + 1}: is not YAML: {error.problem}{context}{shown}"


def _start(text: str) -> str:
    return "" if names_a_secret(text) else mask_text(text)[:40]


def _key_lines(node: yaml.Node, *, path: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted keys with their lines. Raises ConfigError for a key that is written twice."""
    if isinstance(node, yaml.SequenceNode):
        children = [(str(index), item, item) for index, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, value) for key, value in node.value]
    else:
        return
    lines: dict[str, int] = {}
    for name, key_node, value in children:
        key = f"{prefix}.{name}" if prefix else name
        line = key_node.start_mark.line + 1
        if name in lines and name != "<<":
            raise ConfigError(
                f"{path}:{line}: key {key!r} stands already on line {lines[name]}; keep one of them"
            )
        lines[name] = line
        yield key, line
        yield from _key_lines(value, path=path, prefix=key)


def _rename_keys(file: ConfFile) -> ConfFile:
    """Move every older or newer name to its name here. Raises ConfigError when the two differ."""
    for old, new in RENAMED_KEYS.items():
        value = _pop(file.mapping, old.split("."))
        if value is _ABSENT:
            continue
        present = _put(file.mapping, new.split("."), value)
        if present != value:
            shown = without_secrets({old: value, new: present})
            raise ConfigError(
                f"{file.path}: {old} = {shown[old]!r} (line {file.lines.get(old)}) and "
                f"{new} = {shown[new]!r} (line {file.lines.get(new)}) are two names of one "
                f"setting; keep {new}"
            )
    lines = {renamed(key): line for key, line in file.lines.items()} | file.lines
    return ConfFile(path=file.path, mapping=file.mapping, lines=lines)


def _pop(mapping: dict[str, Any], names: Sequence[str]) -> Any:
    for name in names[:-1]:
        inner = mapping.get(name)
        if not isinstance(inner, dict):
            return _ABSENT
        mapping = inner
    return mapping.pop(names[-1], _ABSENT)


def _put(mapping: dict[str, Any], names: Sequence[str], value: Any) -> Any:
    """Set the value unless there is one; returns the one that stands there afterwards."""
    for name in names[:-1]:
        if not isinstance(mapping.get(name), dict):
            mapping[name] = {}
        mapping = mapping[name]
    return mapping.setdefault(names[-1], value)
