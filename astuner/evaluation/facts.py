"""What was evaluated on what: the file `evaluation.json` of an evaluation's run directory.

Written by `evaluating/`, read here. What must agree before two evaluations may be compared stands
in it, so that no comparison needs the configuration.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from astuner.errors import UnreadableError

EVALUATION_FILE = "evaluation.json"
FACTS_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFacts:
    """Of one model on one set of tasks."""

    model: str
    """Folder, hub name, or name and address of a server, as it was named."""
    split: str
    """test, validation, or the path of a file."""
    num_tasks: int
    num_repeat: int
    """Attempts at each task."""
    tasks_digest: str
    """Of all tasks in their order; see `task_reader.same_tasks`."""
    decides: Mapping[str, Any]
    """Dotted settings that decide what an episode is worth (workflow, judge, sampling, limits), as
    they may be shown."""
    weights: str | None = None
    """Digest that tells these weights from others of the same name; None: not known, as of a server
    or the hub."""
    best_of: str | None = None
    """The run directory of which this checkpoint was chosen as the best by these very tasks, so
    that its figures are too good; None: it was not."""

    def __post_init__(self) -> None:
        texts = (self.model, self.split, self.tasks_digest)
        counts = (self.num_tasks, self.num_repeat)
        is_sound = (
            all(isinstance(text, str) for text in texts)
            and all(type(count) is int and count >= 0 for count in counts)
            and all(isinstance(text, str | None) for text in (self.weights, self.best_of))
            and isinstance(self.decides, Mapping)
        )
        if not is_sound:
            raise ValueError("a value is of another kind than evaluations write")

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """Raises UnreadableError where there is none, or it is of another form."""
        path = run_dir / EVALUATION_FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.pop("format") != FACTS_FORMAT:
                raise ValueError("it is of another release")
            return cls(**record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableError(f"{path} tells of no evaluation: {error}") from error

    def write(self, run_dir: Path) -> None:
        text = json.dumps({"format": FACTS_FORMAT, **asdict(self)}, ensure_ascii=False, indent=1)
        path = run_dir / EVALUATION_FILE
        partial = path.with_suffix(".partial")
        partial.write_text(f"{text}\n", encoding="utf-8")
        partial.replace(path)
