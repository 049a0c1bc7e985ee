"""What the workers of all nodes print, in one file for each in the run directory.

Ray sends every line that a worker prints to the driver, which would show it on the screen. It goes
to `logs/{node}_{actor}_{process}.log` instead. What Ray's own services wrote is copied beside it
when the run ends, where the run started them.
"""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

import logging
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from astuner.errors import AstunerError
from astuner.run_dir import naming_the_file

logger = logging.getLogger(__name__)

_RAYS_PRINTER = "ray_print_logs"
"""The name under which Ray registers what prints workers' lines on the driver's screen."""
_SERVICES = ("gcs_server*", "raylet*", "runtime_env*", "ray_process_exit*")
_TAIL_BYTES = 65536


class WorkerLogs:
    """Writes the lines of workers to files below `folder`; one for a run."""

    def __init__(self, folder: Path) -> None:
        """The folder around it is there: one that is gone is not made again."""
        self.folder = folder
        self._lock = threading.Lock()
        self._is_broken = False

    def take_over(self) -> None:
        """Take the place of Ray's printing, after ray.init(log_to_driver=True)."""
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

        dispatcher.remove_handler(_RAYS_PRINTER)
        # Under Ray's own name, so that ray.shutdown() takes it away too.
        dispatcher.add_handler(_RAYS_PRINTER, self.write)

    def write(self, batch: Mapping[str, Any]) -> None:
        """Append the lines of one worker; called by Ray's thread, which an error would end."""
        path = self.folder / _file_name(batch)
        text = "".join(f"{line}\n" for line in batch["lines"])
        with self._lock:
            if self._is_broken:
                return
            try:
                with naming_the_file(path):
                    self.folder.mkdir(exist_ok=True)
                    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                        file.write(text)
            except AstunerError as error:
                self._is_broken = True
                logger.warning("no further logs of workers: %s", error)

    def tail(self, *, num_lines: int, names: Iterable[str] = ("",)) -> dict[str, list[str]]:
        """The last lines of each file whose name contains one of `names`, by that name."""
        wanted = tuple(names)
        return {
            path.name: _last_lines(path, num_lines)
            for path in sorted(self.folder.glob("*.log"))
            if any(name in path.name for name in wanted)
        }

    def copy_services(self, session_dir: Path) -> None:
        """Copy what Ray's services on this machine wrote, for a look after the run."""
        if not self.folder.parent.is_dir():  # the run has ended by that
            return
        target = self.folder / "ray"
        for pattern in _SERVICES:
            for path in session_dir.joinpath("logs").glob(pattern):
                try:
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target / path.name)
                except OSError as error:
                    logger.warning("log not copied file=%s: %s", path, error)


def _file_name(batch: Mapping[str, Any]) -> str:
    """Ray names an actor by the text that it gives itself; without one it was a plain task."""
    if not str(batch["pid"]).isdigit():  # Ray's own services, such as its autoscaler
        return "ray_services.log"
    who = batch.get("actor_name") or batch.get("task_name") or "worker"
    parts = (str(batch["ip"]), str(who), str(batch["pid"]))
    return "_".join(re.sub(r"[^\w.-]+", "-", part).strip("-")[:80] for part in parts) + ".log"


def _last_lines(path: Path, num_lines: int) -> list[str]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return lines[-num_lines:]
