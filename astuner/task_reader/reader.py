"""What every reader of tasks does."""

from typing import Protocol, runtime_checkable

from astuner.types import Task


class TaskReader(Protocol):
    """Reads when asked, and only the split that it is asked for, unless another is needed to keep
    them apart. Raises TaskReadError for a source that cannot be read or is empty."""

    def get_training_tasks(self) -> list[Task]: ...

    def get_validation_tasks(self) -> list[Task]:
        """Empty where no validation source is configured."""
        ...


@runtime_checkable
class HasTestTasks(Protocol):
    """A reader with a split on which nothing is trained and nothing chosen."""

    def get_test_tasks(self) -> list[Task]:
        """Empty where no test source is configured."""
        ...


def tasks_of_test(reader: TaskReader) -> list[Task]:
    """Empty for a reader that knows no such split."""
    return reader.get_test_tasks() if isinstance(reader, HasTestTasks) else []
