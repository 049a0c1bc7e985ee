"""The order of the training tasks: shuffled per epoch, whole batches, resumable."""

import json
import random
from collections import Counter
from fractions import Fraction

import pytest

from astuner.errors import ConfigError
from astuner.task_reader.laid_out import LaidOutOrder
from astuner.task_reader.order import TaskOrder
from astuner.task_reader.shares import Shares


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


def mixed(shares: dict[str, float], sizes: dict[str, int], *, batch_size: int) -> TaskOrder:
    sources = [name for name, size in sizes.items() for _ in range(size)]
    return TaskOrder(len(sources), batch_size=batch_size, seed=5, sources=sources, shares=shares)


def sources_of(batch: list[int], sizes: dict[str, int]) -> list[str]:
    names = [name for name, size in sizes.items() for _ in range(size)]
    return [names[index] for index in batch]


@pytest.mark.parametrize("seed", range(40))
def test_shares_hold_in_every_batch_and_over_all_of_them(seed: int) -> None:
    rng = random.Random(seed)
    shares = {
        str(i): rng.choice([rng.randint(1, 9), round(rng.random() + 0.01, 2)]) for i in "abcd"
    }
    exact = {name: Fraction(str(share)) for name, share in shares.items()}
    whole, split, dealt = sum(exact.values()), Shares(shares), Counter[str]()
    for number in range(1, 60):
        size = rng.randint(1, 20) if seed % 2 else 7
        counts = split.split(size)
        dealt.update(counts)
        assert sum(counts.values()) == size
        for name, share in exact.items():
            assert abs(counts[name] - share / whole * size) < 1
            if not seed % 2:  # of equal batches also what was carried is less than one task
                assert abs(dealt[name] - share / whole * size * number) < 1


def test_where_whole_numbers_allow_it_the_shares_are_exact() -> None:
    split = Shares({"a": 0.5, "b": 0.3, "c": 0.2})
    dealt = Counter[str]()
    for _ in range(10):
        dealt.update(split.split(3))
    assert dealt == {"a": 15, "b": 9, "c": 6}


def test_a_small_source_is_used_again_in_a_new_order_while_a_large_one_goes_on() -> None:
    sizes = {"large": 40, "small": 4}
    order = mixed({"large": 1, "small": 1}, sizes, batch_size=8)
    batches = batches_of(order, 10)
    large = [[i for i in batch if i < 40] for batch in batches]
    small = [[i for i in batch if i >= 40] for batch in batches]
    assert sorted(index for part in large for index in part) == list(range(40))
    assert all(sorted(part) == [40, 41, 42, 43] for part in small)
    assert len({tuple(part) for part in small}) > 2


def test_the_sources_are_spread_over_a_batch() -> None:
    sizes = {"a": 20, "b": 20}
    batch = mixed({"a": 3, "b": 1}, sizes, batch_size=8).next_batch()
    assert sources_of(batch, sizes) == list("aabaaaba")


def test_an_epoch_of_a_mixture_is_as_many_batches_as_all_tasks_fill() -> None:
    order = mixed({"a": 9, "b": 1}, {"a": 10, "b": 11}, batch_size=4)
    assert order.batches_per_epoch == 5
    epochs = []
    for _ in range(11):
        order.next_batch()
        epochs.append(order.epoch)
    assert epochs == [0] * 5 + [1] * 5 + [2]


@pytest.mark.parametrize("num_batches_before", range(8))
@pytest.mark.parametrize("sizes", [{"a": 20, "b": 3, "c": 7}, {"a": 20}], ids=len)
def test_a_mixture_is_resumed_exactly(sizes: dict[str, int], num_batches_before: int) -> None:
    shares = {name: {"a": 0.5, "b": 0.3, "c": 0.2}[name] for name in sizes}
    order = mixed(shares, sizes, batch_size=5)
    batches_of(order, num_batches_before)
    order.next_batch(2)  # a further group or two, as dynamic sampling asks for
    resumed = mixed(shares, sizes, batch_size=5)
    resumed.go_on(json.loads(json.dumps(order.state())))
    assert batches_of(resumed, 20) == batches_of(order, 20)


def test_a_resumed_mixture_takes_other_shares_from_there_on() -> None:
    sizes = {"a": 100, "b": 100}
    order = mixed({"a": 1, "b": 1}, sizes, batch_size=10)
    batches_of(order, 5)
    resumed = mixed({"a": 4, "b": 1}, sizes, batch_size=10)
    resumed.go_on(order.state())
    assert Counter(sources_of(resumed.next_batch(), sizes)) == {"a": 8, "b": 2}


def test_a_checkpoint_of_other_sources_is_refused() -> None:
    state = mixed({"a": 1, "b": 1}, {"a": 5, "b": 5}, batch_size=2).state()
    with pytest.raises(ConfigError, match=r"sources \['a', 'b'\], now they are \['a', 'c'\]"):
        mixed({"a": 1, "c": 1}, {"a": 5, "c": 5}, batch_size=2).go_on(state)
    with pytest.raises(ConfigError, match="now they are"):
        mixed({"a": 1, "b": 1}, {"a": 5, "b": 5}, batch_size=2).go_on(
            TaskOrder(10, batch_size=2, seed=1).state()
        )


def test_a_source_with_fewer_tasks_than_its_part_of_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sources.b: has 2 training tasks.* up to 3"):
        mixed({"a": 1, "b": 1}, {"a": 20, "b": 2}, batch_size=5)


def test_an_order_that_is_laid_out_has_the_batches_one_after_the_other() -> None:
    def order() -> TaskOrder:
        return mixed({"a": 2, "b": 1}, {"a": 9, "b": 4}, batch_size=3)

    laid_out = LaidOutOrder(order(), batch_size=3, num_batches=12)
    assert len(laid_out) == 36
    assert list(laid_out) == [index for batch in batches_of(order(), 12) for index in batch]
    assert LaidOutOrder(order(), batch_size=3, num_batches=12)[20] == list(laid_out)[20]
