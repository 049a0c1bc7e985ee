"""Rules that relate two settings, or a setting and the backbone. Single settings: `sections/`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from astuner.config.schema import Settings
from astuner.config.secret import SHOWN_AS_IS, without_secrets

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

    def show(key: str) -> str:
        value = without_secrets({key: _value(settings, key)}, shown_as)[key]
        return f"{key} = {value!r} ({origin(key)})"

    rules = [_sources, _lengths, _untrained_model]
    if settings.backbone in TRAINING_BACKBONES:
        rules += [_sampling, _validation, _batches]
    rules += _RULES_OF_BACKBONE.get(settings.backbone, [])
    return [problem for rule in rules for problem in rule(settings, show)]


Show = Callable[[str], str]
Rule = Callable[[Settings, Show], Iterator[str]]


def _value(settings: Settings, key: str) -> object:
    value: object = settings
    for name in key.split(".")[1:]:
        value = getattr(value, name)
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
    if settings.task_judge.judge_type != "customized_protocol":
        yield (
            f"{show('astuner.task_judge.judge_type')} is not available in this version; use "
            f"customized_protocol and name a class in astuner.task_judge.judge_protocol"
        )
    if settings.backbone != "debug" and not settings.model.path:
        yield f"{show('astuner.model.path')}: there is no model to tune; give a hub name or folder"


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


def _sampling(settings: Settings, show: Show) -> Iterator[str]:
    if settings.rollout.temperature <= 0:
        yield (
            f"{show('astuner.rollout.temperature')}: greedy episodes of one task are all the same "
            f"and teach nothing; use a temperature above 0"
        )
    if settings.rollout.gamma != 1.0:
        yield (
            f"{show('astuner.rollout.gamma')}: rewards are given per episode and not discounted; "
            f"only 1.0 is supported"
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
    "local": [_training],
    "verl": [_training],
    "trinity": [_training],
    "debug": [_debug],
}
