"""One run directory, read as far as somebody asks. Opens its files for reading only."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from astuner.errors import NotFoundError, UnreadableError
from astuner.evaluation.facts import EvaluationFacts
from astuner.logview.reading.evaluation import EvaluationReader
from astuner.logview.reading.events import EventsReader, FoundThing, findings_of
from astuner.logview.reading.index import EpisodeIndex
from astuner.logview.reading.lines import shown
from astuner.logview.reading.log_tail import log_tail
from astuner.logview.reading.metrics import Metrics, MetricsReader
from astuner.logview.reading.run_status import RunStatus, run_status, started_seconds
from astuner.logview.reading.saved_config import (
    backbone_and_model,
    config_file,
    config_files,
    flat_config,
    text_of_config,
)
from astuner.logview.reading.training import TrainedSample, trained_samples
from astuner.logview.reading.vocabulary import Vocabulary, VocabularyReader

_STATUS_LINES = 400
"""Of the log: more than the traceback of an error has."""


class RunReader:
    """What one run wrote. All methods may be called from several threads."""

    def __init__(self, root: Path, *, name: str, cache_dir: Path) -> None:
        """Of the run directory `root`, which has no links in its own path."""
        self.root = root
        self.name = name
        """`experiment/start`, unique on its shelf."""
        self.index = EpisodeIndex(root, cache_dir)
        self.evaluation = EvaluationReader(root)
        self._metrics = MetricsReader(root)
        self._warm_start = MetricsReader(root, "warm_start.jsonl")
        self._events = EventsReader(root)
        self._vocabulary = VocabularyReader(root)

    @property
    def experiment(self) -> str:
        """The name of the YAML."""
        return shown(self.root.parent.name)

    @property
    def start(self) -> str:
        """The local time of its start, which is the name of its folder."""
        return shown(self.root.name)

    @cached_property
    def started(self) -> float:
        """When it began, in seconds since 1970; 0 where that is not known."""
        return started_seconds(self.root) or 0.0

    @property
    def facts(self) -> EvaluationFacts | None:
        """What was evaluated on what; None where it is no evaluation."""
        return self.evaluation.facts()

    def state(self) -> RunStatus:
        """How it stands right now."""
        return run_status(
            self.root,
            events=self.events(),
            metrics=self.metrics(),
            log_tail=self.log_tail(_STATUS_LINES),
            num_configs=len(self.config_files()),
            named=self._backbone_and_model,
            facts=self.facts,
        )

    def metrics(self) -> Metrics:
        return self._metrics.read()

    def warm_start(self) -> Metrics:
        """Of its updates before the first step, which stand where steps do; empty without any."""
        return self._warm_start.read()

    def events(self) -> list[dict[str, Any]]:
        """What it told of itself, in order; nothing of releases that wrote no events."""
        return self._events.read()

    def findings(self) -> list[FoundThing]:
        """What its detectors found, in order."""
        return findings_of(self.events())

    def config_files(self) -> list[Path]:
        """One for each start, the first one first."""
        return config_files(self.root)

    def config_text(self, number: int | None = None) -> str:
        """The YAML of a start, counted from 1; without a number, of the newest.

        Raises NotFoundError where there is none, UnreadableError where it cannot be read.
        """
        return text_of_config(config_file(self.root, number))

    def config(self, number: int | None = None) -> dict[str, Any]:
        """The same by dotted keys, such as `astuner.model.path`. Raises as `config_text` does."""
        return flat_config(config_file(self.root, number))

    @cached_property
    def estimator(self) -> str | None:
        """How its rewards become advantages, by the name of the setting; None where that is not
        known."""
        try:
            found = self.config().get("astuner.trainer_common.algorithm.adv_estimator")
        except (NotFoundError, UnreadableError):
            return None
        return found if isinstance(found, str) else None

    def vocabulary(self) -> Vocabulary | None:
        """What its token ids stand for; None where the run did not write it."""
        return self._vocabulary.read()

    def training(self, step: int, episode_id: str) -> list[TrainedSample]:
        """What the trainer computed for an episode, by sequence and update."""
        return self.trainings(step, [episode_id])[episode_id]

    def trainings(self, step: int, episode_ids: Collection[str]) -> dict[str, list[TrainedSample]]:
        """The same of several episodes of a step, whose file is read once."""
        return trained_samples(self.root, step, episode_ids)

    def log_tail(self, num_lines: int = 40) -> list[str]:
        """The last lines of its log."""
        return log_tail(self.root, num_lines)

    @cached_property
    def _backbone_and_model(self) -> tuple[str | None, str | None]:
        try:
            return backbone_and_model(self.config_text())
        except (NotFoundError, UnreadableError):
            return None, None
