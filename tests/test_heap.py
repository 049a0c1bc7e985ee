"""What a run takes for lasting, and what is collected all the same."""

import gc
import weakref

import pytest

from astuner.machine import heap
from astuner.machine.heap import NEW_OBJECTS, lasting_heap, without_collecting
from tests.conftest import collect_and_freeze


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch):
    monkeypatch.setattr(heap, "_freeze", collect_and_freeze)


class Node:
    """Refers to itself, so that only the collector of cycles finds it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_alive_is_passed_over_until_the_block_ends() -> None:
    kept = Node()
    alive = weakref.ref(kept)
    with lasting_heap() as freeze:
        late = Node()
        alive_late = weakref.ref(late)
        freeze()
        del kept, late
        gc.collect()
        assert alive() is not None and alive_late() is not None
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()
    gc.collect()
    assert alive() is None and alive_late() is None


def test_cycles_are_looked_for_less_often_until_the_block_ends() -> None:
    before = gc.get_threshold()
    with lasting_heap():
        assert gc.get_threshold()[0] == NEW_OBJECTS > before[0]
    assert gc.get_threshold() == before


@pytest.mark.parametrize("after", [0, 10 * NEW_OBJECTS])
def test_who_looks_for_cycles_never_or_more_seldom_goes_on_so(after) -> None:
    before = gc.get_threshold()
    gc.set_threshold(after)
    try:
        with lasting_heap():
            assert gc.get_threshold()[0] == after
    finally:
        gc.set_threshold(*before)


def test_what_is_only_in_a_cycle_is_not_taken_for_lasting() -> None:
    node = Node()
    before = weakref.ref(node)
    del node
    with lasting_heap() as freeze:
        assert before() is None
        node = Node()
        inside = weakref.ref(node)
        del node
        freeze()
        assert inside() is None


def test_what_comes_later_is_collected() -> None:
    with lasting_heap():
        node = Node()
        alive = weakref.ref(node)
        del node
        gc.collect()
        assert alive() is None


def test_a_block_that_raises_ends_too() -> None:
    try:
        with lasting_heap():
            raise ValueError
    except ValueError:
        pass
    assert not gc.get_freeze_count()


def test_nothing_in_a_cycle_is_freed_inside_of_a_block_without_collecting() -> None:
    freed: list[str] = []
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        with without_collecting():
            with without_collecting():
                pass
            node = Node()
            weakref.finalize(node, freed.append, "inside")
            del node
            kept = [Node() for _ in range(1000)]
            assert not freed
        kept += [Node() for _ in range(1000)]
        assert freed
    finally:
        gc.set_threshold(*thresholds)
