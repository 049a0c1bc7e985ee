"""What happened to a run, one line of events.jsonl each: readers need no log to know.

One process writes them, that of the command. Owns no times of the run but that of each line.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astuner.algorithm.health import Finding
from astuner.clock import iso_utc
from astuner.errors import AstunerError
from astuner.run_dir import RunDir, append_json_line

logger = logging.getLogger(__name__)


class RunEvents:
    """Appends to the events of one run; a later start of the run goes on behind them.

    What the file system refuses is raised as AstunerError, as for metrics.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir

    def started(
        self,
        *,
        version: str | None,
        backbone: str,
        model: str | None,
        is_resumed: bool,
        conf_file: str,
        config_file: str,
    ) -> None:
        """This start is about to run; `config_file` is the name of its resolved configuration."""
        self._write(
            "started",
            version=version,
            backbone=backbone,
            model=model,
            pid=os.getpid(),
            host=socket.gethostname(),
            is_resumed=is_resumed,
            conf=conf_file,
            config=config_file,
        )

    def planned(
        self,
        *,
        num_steps: int | None,
        num_tasks: int,
        num_validation_tasks: int,
        num_test_tasks: int | None = None,
    ) -> None:
        """`num_steps` of the whole run; None where nobody knows the end. `num_test_tasks` are those
        on which nothing is trained or chosen; None where nobody counted them."""
        self._write(
            "planned",
            num_steps=num_steps,
            num_tasks=num_tasks,
            num_validation_tasks=num_validation_tasks,
            num_test_tasks=num_test_tasks,
        )

    def found(self, finding: Finding, *, step: int) -> None:
        """A detector found something in the metrics of the step."""
        self._write(
            "finding",
            step=step,
            detector=finding.detector,
            message=finding.message,
            stops=finding.stops,
        )

    def saved(self, step: int, checkpoint: Path) -> None:
        """The checkpoint of the step is whole."""
        self._write("saved", step=step, checkpoint=str(checkpoint.relative_to(self._run_dir.root)))

    def ended(self, exit_code: int, error: Mapping[str, str] | None = None) -> None:
        """The run ended in order; `error` has the kind and the message of what ended it.

        The first error counts, and a run that is done is done: what the file system refuses here
        is a warning.
        """
        try:
            self._write("ended", exit_code=exit_code, error=error)
        except AstunerError as refused:
            logger.warning("the end of the run is not in its events: %s", refused)

    def _write(self, event: str, **fields: Any) -> None:
        self._run_dir.check_is_there()
        line = {"time": iso_utc(time.time()), "event": event, **fields}
        append_json_line(self._run_dir.events_file, line)
