"""Rules that relate two settings, or a setting and the backbone. Single settings: `sections/`."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from astuner.config.generated_sets import generated_sources, section_key
from astuner.config.schema import Settings
from astuner.config.secret import SHOWN_AS_IS, without_secrets
from astuner.config.sections.algorithm import STEP_ADVANTAGE_NAMES
from astuner.config.sections.data_generation import DataGenerationSettings, QueryReaderSettings
from astuner.config.trace_steps import planned_steps
from astuner.config.traced_sets import addresses_of, traced_sources, tracing_key

_SOURCE_NAME = re.compile(r"[\w-]+", re.ASCII)
TRAINING_BACKBONES = ("local", "verl", "trinity")


def find_problems(
    settings: Settings,
    origin: Callable[[str], str],
    *,
    shown_as: Mapping[str, Any] = SHOWN_AS_IS,
) -> list[str]:
    """Every broken rule, as a sentence that names the settings, their values and what to do.

    `origin` says where a key was set.
    """

    rules = [
        *(_sources, _generation, _tracing, _rubrics, _sandbox, _lengths),
        *(_untrained_model, _llm_as_judge),
    ]
    if settings.backbone in TRAINING_BACKBONES:
        rules += [_sampling, _validation, _batches, _curriculum]
    rules += _RULES_OF_BACKBONE.get(settings.backbone, [])
    show = _shower(settings, origin, shown_as)
    return [problem for rule in rules for problem in rule(settings, show)]


def find_generation_problems(
    settings: Settings,
    origin: Callable[[str], str],
    *,
    shown_as: Mapping[str, Any] = SHOWN_AS_IS,
) -> list[str]:
    """The same where tasks are made and nothing else: rules of the run hold where it does
    rollouts to measure pass rates."""
    sections = sections_to_make(settings)
    if any(section.pass_rate.enabled for section in sections.values()):
        return find_problems(settings, origin, shown_as=shown_as)
    show = _shower(settings, origin, shown_as)
    return [
        problem
        for source, section in sections.items()
        for problem in _generated_set(section, section_key(source), show)
    ]


def sections_to_make(settings: Settings) -> Mapping[str, DataGenerationSettings]:
    """Those that a run reads; where it reads others, that of `task_reader`, by `Task.source`."""
    reader = settings.task_reader
    return generated_sources(reader) or {"": reader.data_generation}


class FindProblems(Protocol):
    def __call__(
        self,
        settings: Settings,
        origin: Callable[[str], str],
        *,
        shown_as: Mapping[str, Any] = SHOWN_AS_IS,
    ) -> list[str]: ...


Show = Callable[[str], str]
Rule = Callable[[Settings, Show], Iterator[str]]


def _shower(settings: Settings, origin: Callable[[str], str], shown_as: Mapping[str, Any]) -> Show:
    """What says of a key its value and where it was set."""

    def show(key: str) -> str:
        value = without_secrets({key: _value(settings, key)}, shown_as)[key]
        return f"{key} = {value!r} ({origin(key)})"

    return show


def _value(settings: Settings, key: str) -> object:
    value: object = settings
    for name in key.split(".")[1:]:
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value


def _sources(settings: Settings, show: Show) -> Iterator[str]:
    if not settings.rollout.agentscope_workflow:
        yield (
            f"{show('astuner.rollout.agentscope_workflow')}: there is no workflow to run; "
            f"name its class, for example my_agent.workflow->MyWorkflow"
        )
    reader = settings.task_reader
    if reader.type == "jsonl_dataset_file" and not reader.jsonl_dataset_file.training.file_path:
        yield (
            f"{show('astuner.task_reader.type')} needs a file; "
            f"{show('astuner.task_reader.jsonl_dataset_file.training.file_path')}"
        )
    yield from _mixture(settings, show)
    if settings.backbone != "debug" and not settings.model.path:
        yield f"{show('astuner.model.path')}: there is no model to tune; give a hub name or folder"


def _generation(settings: Settings, show: Show) -> Iterator[str]:
    for source, section in generated_sources(settings.task_reader).items():
        yield from _generated_set(section, section_key(source), show)


def _tracing(settings: Settings, show: Show) -> Iterator[str]:
    for source, section in traced_sources(settings.task_reader).items():
        key = tracing_key(source)
        if not addresses_of(section) and section.train_output_path is None:
            yield (
                f"{show(f'{key}.base_url')}: there are no traces to make tasks of; name a file, a "
                f"folder or an address, or in {key}.train_output_path tasks that have been made"
            )
        try:
            split = planned_steps(section.filters).split
        except ValueError as error:
            yield f"{key}.{error}"
            continue
        if split.validation_fraction + split.test_fraction >= 1:
            yield (
                f"{key}.filters: the fractions of split leave nothing for training; together they "
                "have to be below 1"
            )


def _generated_set(section: DataGenerationSettings, key: str, show: Show) -> Iterator[str]:
    yield from _seeds(section, key, show)
    if section.validation_fraction + section.test_fraction >= 1:
        yield (
            f"{show(f'{key}.validation_fraction')} and {show(f'{key}.test_fraction')} leave "
            "nothing for training; together they have to be below 1"
        )
    rates, budget = section.pass_rate, section.budget
    if rates.enabled and rates.above >= rates.below:
        yield (
            f"{show(f'{key}.pass_rate.above')} is not below {show(f'{key}.pass_rate.below')}: no "
            "task would be left; lower the first or raise the second"
        )
    if rates.enabled and rates.base_url and not rates.model:
        yield (
            f"{show(f'{key}.pass_rate.base_url')} needs the name of the model there; set "
            f"{key}.pass_rate.model"
        )
    prices = ("price_per_million_input_tokens", "price_per_million_output_tokens")
    unknown = [name for name in prices if getattr(budget, name) is None]
    if budget.max_cost is not None and unknown:
        yield (
            f"{show(f'{key}.budget.max_cost')} needs prices; "
            f"{' and '.join(show(f'{key}.budget.{name}') for name in unknown)}; set them, or limit "
            f"{key}.budget.max_tokens instead"
        )
    for name in section.own_styles:
        if not _SOURCE_NAME.fullmatch(name):
            yield f"{key}.own_styles.{name}: use letters, digits, '_' and '-' only in the name"
        elif name not in section.styles:
            yield (
                f"{show(f'{key}.own_styles.{name}')} is not among {show(f'{key}.styles')}, so that "
                "no draft is made in it; add its name there"
            )


def _seeds(section: DataGenerationSettings, key: str, show: Show) -> Iterator[str]:
    seeds, key_of_type = section.query_reader, f"{key}.query_reader.type"
    named = [
        name
        for name in QueryReaderSettings.model_fields.keys() - {"type", "jsonl_dataset_file"}
        if getattr(seeds, name) is not None
    ]
    if seeds.type not in QueryReaderSettings.model_fields:
        available = ", ".join(name for name in QueryReaderSettings.model_fields if name != "type")
        yield f"{show(key_of_type)}: no seeds can be read from it; use one of {available}"
    elif seeds.type != "jsonl_dataset_file" and seeds.type not in named:
        yield f"{show(key_of_type)}: {key}.query_reader.{seeds.type} is not filled; fill it"
    elif named and not (seeds.type in named or seeds.jsonl_dataset_file.training.file_path):
        yield (
            f"{show(key_of_type)}, so {key}.query_reader.{named[0]}, which is filled, is not "
            "read; set the type to it"
        )


def _rubrics(settings: Settings, show: Show) -> Iterator[str]:
    judge = settings.task_judge
    key, grader = "astuner.task_judge.rubrics", "astuner.task_judge.rubrics_auto_grader"
    if judge.rubrics.file and judge.rubrics.inline:
        yield (
            f"{show(f'{key}.file')} and {show(f'{key}.inline')}: rubrics are read from one place; "
            "leave one of them out"
        )
    is_drafting = judge.judge_type == "rubrics_auto_grader"
    for section, name in ((judge.rubrics, key), (judge.rubrics_auto_grader, grader)):
        if section.min_score >= section.max_score and (name == key or is_drafting):
            yield (
                f"{show(f'{name}.min_score')} is not below {show(f'{name}.max_score')}; lower the "
                "first or raise the second"
            )
    if not is_drafting or judge.rubrics.file or judge.rubrics.inline:
        return
    if judge.rubrics_auto_grader.input_data_type != "jsonl_dataset_file":
        yield (
            f"{show(f'{grader}.input_data_type')}: labelled examples are read from a jsonl file; "
            "use jsonl_dataset_file"
        )
    elif not judge.rubrics_auto_grader.jsonl_dataset_file.training.file_path:
        yield (
            f"{show('astuner.task_judge.judge_type')} needs labelled examples; "
            f"{show(f'{grader}.jsonl_dataset_file.training.file_path')}; name a jsonl file, or "
            f"rubrics that were drafted before in {key}.file"
        )


def _sandbox(settings: Settings, show: Show) -> Iterator[str]:
    sandbox = settings.sandbox
    if sandbox.kind != "auto" and sandbox.kind not in sandbox.permitted_kinds():
        yield (
            f"{show('astuner.sandbox.kind')} is weaker than {show('astuner.sandbox.require')}; set "
            f"both to the same"
        )


def _mixture(settings: Settings, show: Show) -> Iterator[str]:
    reader = settings.task_reader
    if reader.type != "mixture":
        return
    key = "astuner.task_reader.mixture.sources"
    if not reader.mixture.sources:
        yield (
            f"{show('astuner.task_reader.type')} needs sources; {show(key)}; name at least one: "
            "{sums: {share: 2, type: jsonl_dataset_file, jsonl_dataset_file: {...}}}"
        )
    for name, source in reader.mixture.sources.items():
        if not _SOURCE_NAME.fullmatch(name):
            yield (
                f"{key}.{name}: names of metrics and tasks begin with it; use letters, digits, "
                "'_' and '-' only"
            )
        elif source.type == "mixture":
            yield (
                f"{show(f'{key}.{name}.type')}: a source is no mixture itself; write its sources "
                f"below {key}"
            )


def _lengths(settings: Settings, show: Show) -> Iterator[str]:
    context = settings.rollout.max_model_len
    if settings.data.max_prompt_length >= context:
        yield (
            f"{show('astuner.data.max_prompt_length')} leaves no room for an answer in "
            f"{show('astuner.rollout.max_model_len')}; lower the first or raise the second"
        )
    if settings.rollout.max_response_length_in_one_turn > context:
        yield (
            f"{show('astuner.rollout.max_response_length_in_one_turn')} is more than "
            f"{show('astuner.rollout.max_model_len')}; lower the first or raise the second"
        )


def _untrained_model(settings: Settings, show: Show) -> Iterator[str]:
    untrained = settings.rollout.untrained_model
    if untrained.model not in (None, "reference") and not untrained.base_url:
        yield (
            f"{show('astuner.rollout.untrained_model.model')} is the name of a model, and "
            f"{show('astuner.rollout.untrained_model.base_url')} says of no server; set the "
            f"server's address, or use reference for the frozen starting weights"
        )


def _llm_as_judge(settings: Settings, show: Show) -> Iterator[str]:
    judge, key = settings.task_judge.llm_as_judge, "astuner.task_judge.llm_as_judge"
    if judge.min_score >= judge.max_score:
        yield (
            f"{show(f'{key}.min_score')} is not below {show(f'{key}.max_score')}; a score needs "
            "room between the worst and the best"
        )
    elif judge.success_threshold is not None and not (
        judge.min_score < judge.success_threshold <= judge.max_score
    ):
        yield (
            f"{show(f'{key}.success_threshold')}: every score from {judge.min_score:g} to "
            f"{judge.max_score:g} is a success, or none is; set a score above the worst, or null "
            "for the model to say"
        )
    if judge.votes > 1 and judge.temperature == 0:
        yield (
            f"{show(f'{key}.votes')} with {show(f'{key}.temperature')}: at 0 they are all the same "
            "answer; use null, a temperature above 0, or one vote"
        )


def _sampling(settings: Settings, show: Show) -> Iterator[str]:
    if settings.rollout.temperature <= 0:
        yield (
            f"{show('astuner.rollout.temperature')}: greedy episodes of one task are all the same "
            f"and teach nothing; use a temperature above 0"
        )
    estimator = settings.trainer_common.algorithm.adv_estimator
    if settings.rollout.gamma != 1.0 and estimator not in STEP_ADVANTAGE_NAMES:
        yield (
            f"{show('astuner.rollout.gamma')} with "
            f"{show('astuner.trainer_common.algorithm.adv_estimator')}: rewards are given per "
            f"episode and not discounted, so only 1.0 is supported; take an estimator that knows "
            f"calls, {' or '.join(STEP_ADVANTAGE_NAMES)}, or set 1.0"
        )


def _validation(settings: Settings, show: Show) -> Iterator[str]:
    sampling = settings.rollout.val_kwargs
    if sampling.temperature > 0 and not sampling.do_sample:
        yield (
            f"{show('astuner.rollout.val_kwargs.temperature')} has no effect with "
            f"{show('astuner.rollout.val_kwargs.do_sample')}; set that to true, or the temperature "
            f"to 0"
        )


def _batches(settings: Settings, show: Show) -> Iterator[str]:
    rollout, trainer = settings.rollout, settings.trainer_common
    if rollout.num_repeat < 2:
        yield (
            f"{show('astuner.rollout.num_repeat')} with "
            f"{show('astuner.trainer_common.algorithm.adv_estimator')}: episodes are compared "
            f"within their group, so each task needs at least 2"
        )
    num_episodes = settings.data.train_batch_size * rollout.num_repeat
    if num_episodes % trainer.mini_batch_num:
        yield (
            f"{show('astuner.data.train_batch_size')} times "
            f"{show('astuner.rollout.num_repeat')} gives {num_episodes} episodes, which "
            f"{show('astuner.trainer_common.mini_batch_num')} does not divide; change one of them"
        )


def _curriculum(settings: Settings, show: Show) -> Iterator[str]:
    curriculum, key = settings.trainer_common.curriculum, "astuner.trainer_common.curriculum"
    if not curriculum.enabled:
        return
    if curriculum.hard_below > curriculum.easy_above:
        yield (
            f"{show(f'{key}.hard_below')} is above {show(f'{key}.easy_above')}, so tasks between "
            "them would be in both pools; lower the first or raise the second"
        )
    if not any(curriculum.weights.model_dump().values()):
        yield (
            f"{key}.weights are all 0, so no task is ever dealt; give at least one pool a weight, "
            f"for example {show(f'{key}.weights.medium')} 1.0"
        )


def _training(settings: Settings, show: Show) -> Iterator[str]:
    if settings.rollout.top_p != 1.0:
        yield (
            f"{show('astuner.rollout.top_p')} on {show('astuner.backbone')}: training needs the "
            f"log-probabilities of the whole distribution; use 1.0"
        )
    buffer = settings.trainer_common.algorithm.overlong_buffer_length
    if buffer is not None and buffer > settings.data.max_response_length:
        yield (
            f"{show('astuner.trainer_common.algorithm.overlong_buffer_length')} is more than "
            f"{show('astuner.data.max_response_length')}; lower the first or raise the second"
        )


def _warm_start(settings: Settings, show: Show) -> Iterator[str]:
    warm_start, key = settings.trainer_common.warm_start, "astuner.trainer_common.warm_start"
    if warm_start.source == "tasks" and warm_start.path is not None:
        yield (
            f"{show(f'{key}.from')} takes the tasks of the reader, so {show(f'{key}.path')} would "
            "not be read; set the first to traces, or the second to null"
        )
    context = settings.rollout.max_model_len
    if warm_start.max_length is not None and warm_start.max_length > context:
        yield (
            f"{show(f'{key}.max_length')} is more than {show('astuner.rollout.max_model_len')}; "
            "lower the first or raise the second"
        )


def _no_warm_start(settings: Settings, show: Show) -> Iterator[str]:
    key = "astuner.trainer_common.warm_start.from"
    if settings.trainer_common.warm_start.source is not None:
        yield (
            f"{show(key)} on {show('astuner.backbone')}: a warm start is made on this machine "
            "only; make it first by `astuner sft --conf FILE`, which takes the same file, then "
            f"give its checkpoint as astuner.model.path and set {key} to null"
        )


def _debug(settings: Settings, show: Show) -> Iterator[str]:
    debug = settings.debug
    if not settings.model.path and not debug.openai_base_url:
        yield (
            f"{show('astuner.model.path')} and {show('astuner.debug.openai_base_url')}: there is "
            f"no model to ask; set one of them"
        )
    if not settings.model.path and debug.openai_base_url and not debug.openai_model:
        yield (
            f"{show('astuner.debug.openai_base_url')} needs the name of a model there; set "
            f"astuner.debug.openai_model"
        )


_RULES_OF_BACKBONE: dict[str, list[Rule]] = {
    "local": [_training, _warm_start],
    "verl": [_training, _no_warm_start],
    "trinity": [_training, _no_warm_start],
    "debug": [_debug],
}
