"""Whether a run that goes on has the tasks that it began with."""

import hashlib
import json
from collections.abc import Iterable

from astuner.types import Task


def fingerprint(tasks: Iterable[Task]) -> str:
    """Differs where any task does, or their order."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(json.dumps(task.model_dump(mode="json"), sort_keys=True).encode())
    return digest.hexdigest()
