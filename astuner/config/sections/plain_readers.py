"""The sections of readers whose tasks are there before the run: of `task_reader`, and of seeds."""

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting
from astuner.config.sections.reader_type import FileSettings

_TEST = "For `astuner evaluate`: no run trains on it or chooses by it; null: none."


class SplitFileSettings(Section):
    training: FileSettings
    validation: FileSettings
    test: FileSettings


class HuggingfaceReaderSettings(Section):
    dataset_path: str = setting(UsedBy.ALL, "Folder or hub name, with the subset behind a slash.")
    revision: str | None = setting(
        UsedBy.ALL,
        "Commit, tag or branch of a data set of the hub; null: what the hub gives today.",
        min_length=1,
    )
    training_split: str = setting(UsedBy.ALL)
    validation_split: str | None = setting(UsedBy.ALL, "null: no validation.")
    test_split: str | None = setting(UsedBy.ALL, _TEST)
    query_column: str = setting(UsedBy.ALL, "Column of the question.")
    answer_column: str | None = setting(UsedBy.ALL, "Column of the reference answer.")
    id_column: str | None = setting(UsedBy.ALL, "Column of the task id; null: the row's number.")


class EnvServiceReaderSettings(Section):
    env_type: str = setting(
        UsedBy.ALL,
        "Name of the environment; of an embedded one also module->Class or file.py->Class.",
    )
    env_url: str = setting(
        UsedBy.ALL,
        "Where the environment service listens; embedded: one of env_type that starts and ends "
        "with the run.",
    )
    env_action_preference: Literal["code", "text", "box"] = setting(
        UsedBy.ALL, "Form of an action."
    )
    training_split: str = setting(UsedBy.ALL)
    validation_split: str | None = setting(UsedBy.ALL, "null: no validation.")
    test_split: str | None = setting(UsedBy.ALL, _TEST)
    token_env: str = setting(UsedBy.ALL, "Environment variable with the service's bearer token.")
    options: dict[str, Any] = setting(
        UsedBy.ALL, "For the environment, such as {map_size: 4}; keys of any name."
    )
    timeout_seconds: PositiveFloat = setting(
        UsedBy.ALL, "A request that takes longer failed; the wait for a free instance is apart."
    )


class ReasoningGymReaderSettings(Section):
    datasets: list[str] = setting(UsedBy.ALL, "Names of its data sets, such as chain_sum.")
    num_tasks: PositiveInt = setting(UsedBy.ALL, "Training tasks of each data set.")
    num_validation_tasks: NonNegativeInt = setting(
        UsedBy.ALL, "Validation tasks of each, made with another seed."
    )
    num_test_tasks: NonNegativeInt = setting(
        UsedBy.ALL, "Test tasks of each, made with a third seed and never trained on."
    )
    seed: int = setting(UsedBy.ALL, "Of the training tasks.")
    options: dict[str, Any] = setting(
        UsedBy.ALL, "Settings of a data set, by its name: {chain_sum: {max_terms: 3}}."
    )


class OpenEnvReaderSettings(Section):
    url: str | None = setting(UsedBy.ALL, "Where the OpenEnv server listens.")
    env: str | None = setting(UsedBy.ALL, "Environment, where a server has several; null: its one.")
    training_split: str = setting(UsedBy.ALL)
    validation_split: str | None = setting(UsedBy.ALL, "null: no validation.")
    test_split: str | None = setting(UsedBy.ALL, _TEST)
    num_tasks: PositiveInt = setting(
        UsedBy.ALL, "Tasks, told apart by their seed, of a server without a list of tasks."
    )
    num_validation_tasks: NonNegativeInt = setting(
        UsedBy.ALL, "The same for validation, with other seeds; while validation_split is null."
    )
    num_test_tasks: NonNegativeInt = setting(
        UsedBy.ALL, "The same for the test, with other seeds again; while test_split is null."
    )
    token_env: str = setting(UsedBy.ALL, "Environment variable with the server's bearer token.")
    options: dict[str, Any] = setting(UsedBy.ALL, "For its reset; keys of any name.")
    timeout_seconds: PositiveFloat = setting(UsedBy.ALL, "A request that takes longer failed.")


class OrsReaderSettings(Section):
    url: str | None = setting(UsedBy.ALL, "Where the Open Reward Standard server listens.")
    env: str | None = setting(UsedBy.ALL, "Environment, where a server has several; null: its one.")
    training_split: str = setting(UsedBy.ALL)
    validation_split: str | None = setting(UsedBy.ALL, "null: no validation.")
    test_split: str | None = setting(UsedBy.ALL, _TEST)
    token_env: str = setting(UsedBy.ALL, "Environment variable with the server's bearer token.")
    timeout_seconds: PositiveFloat = setting(UsedBy.ALL, "A request that takes longer failed.")


class HarborReaderSettings(Section):
    path: str | None = setting(UsedBy.ALL, "A task folder in Harbor's format, or a folder of them.")
    validation_path: str | None = setting(UsedBy.ALL, "The same; null: no validation.")
    test_path: str | None = setting(UsedBy.ALL, f"The same. {_TEST}")


class RandomDummyReaderSettings(Section):
    num_tasks: PositiveInt = setting(UsedBy.ALL, "Tasks to make up.")
    num_test_tasks: NonNegativeInt = setting(UsedBy.ALL, "Others, for the test.")
