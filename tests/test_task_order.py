"""The order of the training tasks: shuffled per epoch, whole batches, resumable."""

import json

import pytest

from astuner.errors import ConfigError
from astuner.task_reader.order import TaskOrder


def batches_of(order: TaskOrder, count: int) -> list[list[int]]:
    return [order.next_batch() for _ in range(count)]


def test_an_epoch_visits_every_task_once() -> None:
    order = TaskOrder(12, batch_size=4, seed=1)
    indices = [index for batch in batches_of(order, order.batches_per_epoch) for index in batch]
    assert sorted(indices) == list(range(12))


def test_the_order_differs_between_epochs_and_seeds_and_repeats_for_a_seed() -> None:
    first = batches_of(TaskOrder(20, batch_size=20, seed=1), 2)
    assert first[0] != first[1]
    assert first == batches_of(TaskOrder(20, batch_size=20, seed=1), 2)
    assert first != batches_of(TaskOrder(20, batch_size=20, seed=7), 2)


def test_the_order_of_a_seed_never_changes() -> None:
    assert batches_of(TaskOrder(5, batch_size=5, seed=42), 2) == [[3, 1, 2, 4, 0], [1, 4, 3, 2, 0]]


def test_a_batch_never_spans_two_epochs() -> None:
    order = TaskOrder(10, batch_size=4, seed=3)
    assert order.batches_per_epoch == 2
    epochs = []
    for _ in range(6):
        assert len(set(order.next_batch())) == 4
        epochs.append(order.epoch)
    assert epochs == [0, 0, 1, 1, 2, 2]


def test_the_tasks_that_do_not_fill_a_batch_are_other_ones_in_other_epochs() -> None:
    order = TaskOrder(10, batch_size=4, seed=3)
    left_out = set()
    for _ in range(6):
        seen = {index for batch in batches_of(order, 2) for index in batch}
        left_out.add(frozenset(set(range(10)) - seen))
    assert all(len(tasks) == 2 for tasks in left_out)
    assert len(left_out) > 1


@pytest.mark.parametrize("num_batches_before", range(8))
def test_a_resumed_order_goes_on_as_if_it_had_not_stopped(num_batches_before: int) -> None:
    order = TaskOrder(10, batch_size=3, seed=5)
    batches_of(order, num_batches_before)
    state = json.loads(json.dumps(order.state()))
    resumed = TaskOrder.from_state(state, 10, batch_size=3)
    assert batches_of(resumed, 10) == batches_of(order, 10)


def test_a_resumed_order_keeps_its_tasks_with_another_batch_size() -> None:
    order = TaskOrder(8, batch_size=4, seed=5)
    whole = batches_of(TaskOrder(8, batch_size=8, seed=5), 1)[0]
    order.next_batch()
    resumed = TaskOrder.from_state(order.state(), 8, batch_size=2)
    assert batches_of(resumed, 2) == [whole[4:6], whole[6:8]]


def test_another_number_of_tasks_is_refused() -> None:
    state = TaskOrder(10, batch_size=3, seed=5).state()
    with pytest.raises(ConfigError, match="with 10 training tasks, now there are 11"):
        TaskOrder.from_state(state, 11, batch_size=3)


def test_an_incomplete_state_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lacks \['epoch', 'num_tasks', 'position'\]"):
        TaskOrder.from_state({"seed": 1}, 11, batch_size=3)


@pytest.mark.parametrize(("num_tasks", "batch_size"), [(100, 264), (0, 1), (5, 0)])
def test_a_batch_size_that_the_data_cannot_fill_names_both_numbers(
    num_tasks: int, batch_size: int
) -> None:
    with pytest.raises(ConfigError, match=f"is {batch_size}, but there are {num_tasks} training"):
        TaskOrder(num_tasks, batch_size=batch_size, seed=1)
