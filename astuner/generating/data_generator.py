"""A reader of tasks that makes them when they are missing, from a section of settings alone."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from astuner.config.load import load_mapping_for_generation
from astuner.console import LoggedConsole
from astuner.errors import ConfigError
from astuner.generating.make import make_sets
from astuner.task_reader.generated_folder import GeneratedFolderReader
from astuner.types import Task

_NAME = "DataGeneratorTaskReader"


class DataGeneratorTaskReader:
    """Tasks out of documents and a few examples, as `task_reader.data_generation` says.

    DataGeneratorTaskReader(
        reader_config={"data_generation": {"document_reader": {"document_path": ["docs"]}}},
        llm={"base_url": "http://127.0.0.1:8000/v1", "model": "Qwen/Qwen3-30B-A3B"},
    ).get_training_tasks()
    """

    def __init__(
        self,
        reader_config: Mapping[str, Any] | DictConfig,
        *,
        llm: Mapping[str, Any] | None = None,
    ) -> None:
        """`reader_config` is what stands below `task_reader` in a YAML, or `config.astuner.
        task_reader` of a run; `llm` likewise. What they do not say is as in the defaults.

        Raises ConfigError for settings that are none.
        """
        plain = _plain(reader_config)
        if "data_generation" not in plain:
            raise ConfigError(
                f"{_NAME}: reader_config has no section data_generation; found {sorted(plain)}; "
                "give what stands below task_reader in a YAML"
            )
        reader = {"type": "data_generation", "data_generation": plain["data_generation"]}
        content = {"experiment_name": "data_generator", "task_reader": reader, "llm": llm or {}}
        self._loaded = load_mapping_for_generation({"astuner": content}, name=_NAME)
        self._is_made = False

    def get_training_tasks(self) -> list[Task]:
        """Those of the set, which is made where it is missing or has too few.

        Raises BackboneError where no task could be made.
        """
        return self._reader().get_training_tasks()

    def get_validation_tasks(self) -> list[Task]:
        """Made from other documents than the training tasks."""
        return self._reader().get_validation_tasks()

    def get_test_tasks(self) -> list[Task]:
        """Made from other documents again, where test_fraction asks for some."""
        return self._reader().get_test_tasks()

    def _reader(self) -> GeneratedFolderReader:
        if not self._is_made:
            made = make_sets(self._loaded, LoggedConsole())
            if made.ended_by is not None:
                raise made.ended_by
            for one in made.sets:
                one.check_has_tasks()
            self._is_made = True
        section = self._loaded.settings.task_reader.data_generation
        return GeneratedFolderReader(self._loaded.generated_set_dir("", section))


def _plain(config: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    if not isinstance(config, DictConfig):
        return dict(config)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
