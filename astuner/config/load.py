"""From the user's YAML file and overrides to one resolved, checked configuration.

Resolves and types what `compose` gives, and says where a wrong setting was set.
"""

import copy
import difflib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from astuner.config.accepted import what_became_of, without_accepted
from astuner.config.check import FindProblems, find_generation_problems, find_problems
from astuner.config.compose import PASS_THROUGH, compose_config
from astuner.config.generated_sets import set_folder
from astuner.config.llm_models import name_models
from astuner.config.mixed_sources import complete_sources, split_source_key
from astuner.config.packaged import DEFAULT_FOLDER, read_packaged
from astuner.config.paths import make_absolute
from astuner.config.reader_choice import implied_reader
from astuner.config.resolved import literal, resolved_config
from astuner.config.saved import laid_over, what_was_set
from astuner.config.schema import Settings, section_keys, setting_keys
from astuner.config.secret import MASK, SHOWN_AS_IS, is_secret, mask_text, without_secrets
from astuner.config.sections.data_generation import DataGenerationSettings, QueryReaderSettings
from astuner.config.sections.task_reader import FeedbackTracingSettings
from astuner.config.seed_readers import complete_seed_readers
from astuner.config.shown import resolve_shown
from astuner.config.source import (
    RENAMED_VALUES,
    ROOT_RENAMES,
    UserInput,
    first_line,
    flatten,
    make_conf_file,
    read_conf_file,
    read_override,
    renamed,
)
from astuner.config.traced_sets import traced_file
from astuner.errors import ConfigError
from astuner.imports import module_folders

_RESERVED_ROOT_KEYS = ("rollout", "task_reader", "task_judge", "trainer_common", "context_tracker")
_FREE_FORM = frozenset(
    {
        "astuner.evaluation.gate.not_worse_on",
        "astuner.rollout.chat_template_kwargs",
        "astuner.rollout.val_kwargs.chat_template_kwargs",
        "astuner.task_reader.env_service.options",
        "astuner.task_reader.openenv.options",
        "astuner.task_reader.reasoning_gym.options",
        "astuner.task_reader.mixture.sources",
        "astuner.task_reader.data_generation.own_styles",
        *(
            f"astuner.task_reader.data_generation.query_reader.{name}"
            for name in QueryReaderSettings.model_fields
        ),
        "astuner.task_reader.feedback_tracing.filters",
        "astuner.task_judge.rubrics_auto_grader.custom_evaluation_prompt",
    }
)
"""Settings that hold keys of any name."""


@dataclass(frozen=True, kw_only=True)
class LoadedConfig:
    """A configuration that passed every check."""

    values: Mapping[str, Any]
    """Resolved: `astuner`, `verl`, `trinity` and the root keys of the user."""
    settings: Settings
    """The same `astuner` section, typed."""
    explicit_keys: frozenset[str]
    """Dotted keys below `astuner`, `verl` and `trinity` that the user set."""
    conf_file: Path
    """Absolute path of the user's YAML."""
    shown_as: Mapping[str, Any]
    """What to show for the dotted keys whose values may not be shown."""
    overrides: tuple[str, ...] = field(compare=False)
    """Of the command line as they were written, without those that hold secrets."""
    home: Path = field(compare=False)
    """The current directory of the start; relative folders of the settings count from it."""

    @cached_property
    def config(self) -> DictConfig:
        """The values as the code of users gets them: read-only, and an unknown key is an error.
        Made when it is first wanted, which takes a quarter of what loading does."""
        return resolved_config(self.values)

    @property
    def experiment_name(self) -> str:
        """Name of the folder that holds the runs of this configuration."""
        name = self.settings.experiment_name
        return self.conf_file.stem if name == "read_yaml_name" else name.replace("|", "-")

    def generated_set_dir(self, source: str, section: DataGenerationSettings) -> Path:
        """Absolute path of the folder of the tasks that are made for a source."""
        return set_folder(section, source=source, name=self.experiment_name, home=self.home)

    def traced_tasks_file(self, source: str, section: FeedbackTracingSettings) -> Path:
        """Absolute path of the training tasks that are made from the traces of a source."""
        return traced_file(section, source=source, name=self.experiment_name, home=self.home)

    @property
    def experiment_dir(self) -> Path:
        """Absolute path of the folder that holds the folders of runs."""
        folder = self.settings.experiment_dir
        return self.home / Path("launcher_record" if folder == "auto" else folder).expanduser()


def load_config(
    conf_file: Path, overrides: Sequence[str] = (), *, backbone: str | None = None
) -> LoadedConfig:
    """Compose, resolve and check the configuration.

    `overrides` are in hydra's grammar; `backbone` wins over the file and the overrides. Raises
    ConfigError that lists every wrong setting with the place where it was set.
    """
    flag = () if backbone is None else (f"astuner.backbone={backbone}",)
    return _load(
        UserInput(
            file=read_conf_file(conf_file),
            overrides=tuple(read_override(text) for text in (*overrides, *flag)),
        )
    )


def load_for_generation(conf_file: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """The same where tasks are made and nothing is tuned: it needs no model and no workflow, unless
    pass rates are measured."""
    file, given = read_conf_file(conf_file), tuple(map(read_override, overrides))
    return _load(UserInput(file=file, overrides=given), find_generation_problems)


def load_for_serving(conf_file: Path | None, overrides: Sequence[str] = ()) -> LoadedConfig:
    """The same where a model is served and nothing is tuned: tasks and workflow may be missing.
    Without a file, the defaults."""
    file = make_conf_file("astuner serve", {}) if conf_file is None else read_conf_file(conf_file)
    given = tuple(map(read_override, overrides))
    return _load(UserInput(file=file, overrides=given), _find_nothing)


def load_saved(
    saved_file: Path, overrides: Sequence[str] = (), *, conf_file: Path | None = None
) -> LoadedConfig:
    """The configuration that a run saved, with the settings of `conf_file` and overrides over it.

    Secrets are saved by no run, and neither is what the environment gave. Raises as `load_config`.
    """
    saved = what_was_set(read_conf_file(saved_file).mapping, _packaged_defaults())
    own = read_conf_file(conf_file) if conf_file else make_conf_file(str(saved_file), {})
    file = replace(own, mapping=laid_over(saved, own.mapping))
    return _load(UserInput(file=file, overrides=tuple(read_override(text) for text in overrides)))


def load_mapping(mapping: Mapping[str, Any], *, name: str) -> LoadedConfig:
    """The same from settings that stand in no file; messages call them `name`."""
    return _load(UserInput(file=make_conf_file(name, mapping), overrides=()))


def load_mapping_for_generation(mapping: Mapping[str, Any], *, name: str) -> LoadedConfig:
    """As `load_for_generation`, from settings that stand in no file."""
    user = UserInput(file=make_conf_file(name, mapping), overrides=())
    return _load(user, find_generation_problems)


def _load(user: UserInput, find: FindProblems = find_problems) -> LoadedConfig:
    _check_names(user)
    unresolved = compose_config(user)
    composed = _resolve(unresolved, user)
    explicit_keys = _explicit_keys(user, composed)
    _choose_reader(composed.get("astuner"), explicit_keys, user)
    name_models(composed.get("astuner"), explicit_keys)
    shown_as = _shown_as(unresolved, composed, explicit_keys)
    settings = _typed(composed.get("astuner"), user, shown_as)
    problems = find(settings, lambda key: user.origin(key) or "default", shown_as=shown_as)
    _raise_problems(problems, user.file.path)
    return LoadedConfig(
        values=composed,
        settings=settings,
        explicit_keys=explicit_keys,
        conf_file=Path(os.path.abspath(user.file.path)),
        shown_as=shown_as,
        overrides=tuple(one.shown for one in user.overrides if MASK not in one.shown),
        home=Path.cwd(),
    )


def _find_nothing(*_: object, **__: object) -> list[str]:
    """Rules between settings are about tuning; a model is served with a few of them."""
    return []


def packaged_section(name: str) -> dict[str, Any]:
    """A copy of a section of the packaged defaults, for what is used without a configuration."""
    return copy.deepcopy(_packaged_defaults()["astuner"][name])


@cache
def packaged_values() -> dict[str, Any]:
    """The packaged default of every setting of `astuner`, by its dotted key; not to be changed."""
    return flatten(_packaged_defaults()["astuner"])


def save_resolved(
    config: DictConfig, path: Path, *, shown_as: Mapping[str, Any] = SHOWN_AS_IS
) -> None:
    """Write the resolved configuration as YAML, without secrets and values of the environment."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    shown = OmegaConf.create(without_secrets(literal(plain), shown_as))
    path.write_text(OmegaConf.to_yaml(shown), encoding="utf-8")


def _check_names(user: UserInput) -> None:
    """Raise ConfigError for root keys that are a slip, and for unknown keys in overrides."""
    problems = []
    for name in map(str, user.file.mapping):
        if hint := _root_slip(name):
            problems.append(f"{user.origin(name)}: {name}: {hint}")
    for name in PASS_THROUGH:
        section = user.file.mapping.get(name) or {}
        if not isinstance(section, dict):
            problems.append(f"{user.origin(name)}: {name}: found {section!r}, expected a section")
    known = {*setting_keys(), *section_keys()}
    for override in user.overrides:
        key = override.key
        if key.startswith("astuner.") and not _is_known(key, known):
            problems.append(f"override {override.shown!r}: {_unknown(key)}")
        full = renamed(f"astuner.{key}")
        if key.partition(".")[0] not in user.file.mapping and _is_known(full, known):
            problems.append(
                f"override {override.shown!r}: {key}: unknown key; its name here is {full}"
            )
    _raise_problems(problems, user.file.path)


def _root_slip(name: str) -> str | None:
    if name in ROOT_RENAMES:
        return f"this section is named '{ROOT_RENAMES[name]}' here; rename it"
    if name in _RESERVED_ROOT_KEYS:
        return f"stands at the root; indent it below 'astuner:' (astuner.{name})"
    if name != "astuner" and difflib.get_close_matches(name, ["astuner"], cutoff=0.8):
        return "is not read by astuner; did you mean 'astuner'?"
    return None


def _is_known(key: str, known: Collection[str]) -> bool:
    """Whether `key` is a setting, a section, below a setting of free keys, or does nothing here."""
    parts = key.split(".")
    return (
        key in known
        or any(".".join(parts[:n]) in _FREE_FORM for n in range(1, len(parts)))
        or what_became_of(key) is not None
    )


def _unknown(key: str) -> str:
    nearest = nearest_key(key)
    hint = f"the nearest known key is {nearest}" if nearest else "see astuner_default.yaml"
    if (new := renamed(key)) != key:
        hint = f"its name here is {new}"
    return f"{key}: unknown key; {hint}"


def nearest_key(key: str) -> str | None:
    """The known key that `key` most likely stands for; None when nothing is near."""
    if parts := split_source_key(key):
        return _nearest_in_source(*parts)
    known = (*setting_keys(), *section_keys())
    parent, _, name = key.rpartition(".")
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent]
    if near := difflib.get_close_matches(name, siblings, n=1, cutoff=0.8):
        return f"{parent}.{near[0]}"
    same_name = [k for k in known if k.rpartition(".")[2] == name]
    if same_name:
        return min(same_name, key=lambda k: k.count("."))
    if near := difflib.get_close_matches(name, siblings, n=1):
        return f"{parent}.{near[0]}"
    by_name = {k.rpartition(".")[2]: k for k in known}
    near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.75)
    return by_name[near[0]] if near else None


def _nearest_in_source(source: str, rest: str) -> str | None:
    """A source has the keys of `task_reader`, and a few of its own."""
    own = difflib.get_close_matches(rest, ("share", "workflow", "judge"), n=1)
    reader = "astuner.task_reader"
    nearest = f"{reader}.{own[0]}" if own else nearest_key(f"{reader}.{rest}")
    if nearest is None or not nearest.startswith(f"{reader}."):
        return nearest
    return source + nearest.removeprefix(reader)


def _resolve(composed: DictConfig, user: UserInput) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        reason = "" if is_secret(key) else f": {mask_text(first_line(error))}"
        raise ConfigError(
            f"{_place(key, user)}: {key}: its value cannot be resolved{reason}"
        ) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _typed(section: Any, user: UserInput, shown_as: Mapping[str, Any]) -> Settings:
    if isinstance(section, dict):
        _rename_values(section)
        make_absolute(section, module_folders(user.file.path))
        readers = _packaged_defaults()["astuner"]["task_reader"]
        complete_sources(section, readers)
        complete_seed_readers(section, readers)
        section = without_accepted(section, "astuner")
    try:
        return Settings.model_validate(section)
    except ValidationError as error:
        problems = [_describe_problem(detail, section, user, shown_as) for detail in error.errors()]
        _raise_problems(list(dict.fromkeys(problems)), user.file.path)
        raise AssertionError("unreachable") from error


def _choose_reader(section: Any, explicit_keys: frozenset[str], user: UserInput) -> None:
    """Raises ConfigError where it is not clear which one the user means."""
    try:
        reader = implied_reader(explicit_keys)
    except ValueError as error:
        raise ConfigError(f"{user.file.path}: {error}") from None
    if reader is not None and isinstance(section, dict):
        section["task_reader"]["type"] = reader


def _rename_values(section: dict[str, Any]) -> None:
    for key, values in RENAMED_VALUES.items():
        *parents, name = key.split(".")[1:]
        holder: Any = section
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and isinstance(holder.get(name), str):
            holder[name] = values.get(holder[name], holder[name])


def _describe_problem(
    detail: ErrorDetails, section: Any, user: UserInput, shown_as: Mapping[str, Any]
) -> str:
    key, found = _locate(detail["loc"], section)
    place = _place(key, user)
    if detail["type"] == "extra_forbidden":
        return f"{place}: {_unknown(key)}"
    if detail["type"] == "missing":
        key = ".".join(("astuner", *map(str, detail["loc"])))
        return f"{_place(key, user)}: {key}: has no value; set one"
    shown = without_secrets({key: found}, shown_as)[key]
    expected = detail["msg"].removeprefix("Input should be ")
    if detail["type"] == "model_type":
        expected = "a section of further keys"
    if detail["type"] == "list_type" and isinstance(shown, str):
        expected += f", such as [{shown}]"
    return f"{place}: {key}: found {shown!r} ({type(found).__name__}), expected {expected}"


def _locate(loc: Sequence[int | str], section: Any) -> tuple[str, Any]:
    """The dotted key of pydantic's location and the value there.

    The location of a union ends with the name of the alternative, which is no key.
    """
    key, value = "astuner", section
    for part in loc:
        if not _holds(value, part):
            break
        value = value[part]
        key = f"{key}.{part}"
    return key, value


def _holds(value: Any, part: int | str) -> bool:
    if isinstance(value, list):
        return isinstance(part, int)
    return isinstance(value, dict) and part in value


def _place(key: str, user: UserInput) -> str:
    return user.origin(key) or f"{user.file.path} (or a file of its defaults list)"


def _raise_problems(problems: Sequence[str], path: Path) -> None:
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ConfigError(f"{path}: {len(problems)} settings are wrong:{lines}")


def _shown_as(
    unresolved: DictConfig, composed: Mapping[str, Any], explicit_keys: frozenset[str]
) -> dict[str, Any]:
    """What to show for the keys whose shown values are not those that are used."""
    shown = resolve_shown(unresolved)
    name_models(shown.get("astuner"), explicit_keys)
    used = flatten(composed)
    return {key: value for key, value in flatten(shown).items() if used.get(key) != value}


def _explicit_keys(user: UserInput, composed: Mapping[str, Any]) -> frozenset[str]:
    """What the user's file and overrides set, and what other files of its defaults list changed."""
    defaults = flatten(_packaged_defaults())
    final = {k: v for root in ("astuner", *PASS_THROUGH) for k, v in _below(root, composed)}
    changed = {k for k, v in final.items() if k not in defaults or defaults[k] != v}
    return frozenset(changed | (user.keys() & final.keys()))


@cache
def _packaged_defaults() -> dict[str, Any]:
    defaults = OmegaConf.to_container(read_packaged(DEFAULT_FOLDER / "astuner_default.yaml"))
    assert isinstance(defaults, dict)
    return {str(name): section for name, section in defaults.items()}


def _below(root: str, composed: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    section = composed.get(root)
    if isinstance(section, Mapping):
        yield from flatten(section, root).items()
