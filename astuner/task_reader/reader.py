"""What every reader of tasks does."""

from typing import Protocol

from astuner.types import Task


class TaskReader(Protocol):
    """Reads when asked. Raises TaskReadError for a source that cannot be read or is empty."""

    def get_training_tasks(self) -> list[Task]: ...

    def get_validation_tasks(self) -> list[Task]:
        """Empty where no validation source is configured."""
        ...
