"""An order of tasks for a trainer that deals by itself: all its batches as one sequence."""

from astuner.task_reader.order import TaskOrder


class LaidOutOrder:
    """The indices of the tasks of `num_batches` batches; found when they are first asked for."""

    def __init__(self, order: TaskOrder, *, batch_size: int, num_batches: int) -> None:
        self._order, self._length = order, batch_size * num_batches
        self._indices: list[int] = []

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self._length:
            raise IndexError(place)
        while place >= len(self._indices):
            self._indices += self._order.next_batch()
        return self._indices[place]
