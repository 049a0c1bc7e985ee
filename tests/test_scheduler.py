"""Which tokens go into which pass, and who holds which page, without any model."""

from collections import Counter
from collections.abc import Iterable
from itertools import product
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

import astuner.engine.scheduler as scheduler_module
from astuner.engine.pages import NOTHING, Pages
from astuner.engine.scheduler import NO_COLUMN, Chunk, Draft, Scheduler

SIZE = 4


def draft(prompt: list[int], num_new: int, *, stop_ids: Iterable[int] = ()) -> Draft:
    return Draft(
        request=None,
        ids=list(prompt),
        num_prompt=len(prompt),
        max_tokens=len(prompt) + num_new,
        stop_ids=frozenset(stop_ids),
    )


def make(num_pages: int, *, max_num_seqs: int = 8, max_batch_tokens: int = 64) -> Scheduler:
    return Scheduler(
        Pages(num_pages, SIZE), max_num_seqs=max_num_seqs, max_batch_tokens=max_batch_tokens
    )


class Cache:
    """What a model would have written: for each slot, the tokens up to the one that it holds."""

    def __init__(self) -> None:
        self.slots: dict[int, tuple[int, ...]] = {}
        self.sampled: dict[Draft, list[int]] = {}
        """Prompt and tokens that passes gave, whether somebody knows them or not."""

    def sample(
        self, batch: list[Chunk], next_token, *, is_first: bool = True
    ) -> list[tuple[Draft, int]]:
        drafts = [chunk.draft for chunk in batch if chunk.predicts or not is_first]
        tokens = [next_token(self.ids(one)) for one in drafts]
        for one, token in zip(drafts, tokens, strict=True):
            self.sampled[one] = [*self.ids(one), token]
        return list(zip(drafts, tokens, strict=True))

    def ids(self, one: Draft) -> list[int]:
        return self.sampled.get(one, one.ids)

    def compute(self, batch: list[Chunk]) -> None:
        for chunk in batch:
            ids, pages = self.ids(chunk.draft), chunk.draft.pages
            for place in range(chunk.start, chunk.end):
                self.slots[pages[place // SIZE] * SIZE + place % SIZE] = tuple(ids[: place + 1])

    def check(self, batch: list[Chunk]) -> None:
        """Every key that the batch reads belongs to the draft's own tokens."""
        for chunk in batch:
            ids, pages = self.ids(chunk.draft), chunk.draft.pages
            for place in range(chunk.end):
                slot = pages[place // SIZE] * SIZE + place % SIZE
                assert self.slots[slot] == tuple(ids[: place + 1])


def run(
    scheduler: Scheduler,
    drafts: list[Draft],
    *,
    next_token=len,
    cache: Cache | None = None,
    looks_ahead: bool = False,
    reads_beside: bool = False,
    at_once: int = 1,
) -> list:
    """Write all drafts to their end; returns the batches as (index of the draft, start, end).

    Looking ahead, the tokens of a pass are told when the next one has begun, or the next ones: up
    to so many are begun `at_once`.
    """
    cache, passes = cache or Cache(), []
    under_way: list[tuple[Draft, int]] = []
    for one in drafts:
        scheduler.add(one)
    while scheduler.has_work:
        planned = scheduler.next_batch(reads_beside=reads_beside, at_once=at_once)
        batch = [*planned]
        assert batch or under_way
        num_passes = dict(zip(planned.getting, planned.num_passes, strict=True))
        before, under_way = under_way, []
        for step in range(max(planned.num_passes, default=1)):
            chunks = batch
            if step:
                ends = [(c.draft, c.end + step) for c in batch if num_passes[c.draft] > step]
                chunks = [Chunk(one, end - 1, end) for one, end in ends]
            cache.compute(chunks)
            cache.check(chunks)
            passes.append([(drafts.index(c.draft), c.start, c.end) for c in chunks])
            going_on = batch if step == 0 else chunks
            under_way += cache.sample(going_on, next_token, is_first=step == 0)
        scheduler.begin_pass(planned)
        tell(scheduler, before)
        for one, _ in under_way:
            one.under_way = 0
        if not looks_ahead:
            tell(scheduler, under_way)
            under_way = []
        assert len(passes) < 10_000
    return passes


def tell(scheduler: Scheduler, sampled: list[tuple[Draft, int]]) -> None:
    alive = {one: None for one, _ in sampled if not one.is_over}
    for one in alive:
        one.under_way = NO_COLUMN
    for one, token in sampled:
        if one in alive and (one.ids[-1] not in one.stop_ids or len(one.ids) == one.num_prompt):
            one.ids.append(token)
    scheduler.finish_pass([*alive])


prompts = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=30), st.integers(1, 12)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200)
@given(prompts, st.integers(11, 40), st.integers(1, 5), st.integers(1, 40))
def test_every_draft_is_written_to_its_end_from_keys_of_its_own_tokens(
    asked: list[tuple[list[int], int]], num_pages: int, max_num_seqs: int, max_batch_tokens: int
) -> None:
    drafts = [draft(prompt, num_new) for prompt, num_new in asked]
    scheduler = make(num_pages, max_num_seqs=max_num_seqs, max_batch_tokens=max_batch_tokens)
    passes = run(scheduler, drafts, next_token=lambda ids: len(ids) % 2)
    for one, (prompt, num_new) in zip(drafts, asked, strict=True):
        assert one.ids[: len(prompt)] == prompt
        assert len(one.ids) == len(prompt) + num_new
        assert one.pages == []
    for batch in passes:
        assert len(batch) <= max_num_seqs
        is_reading = any(end - start > 1 for _, start, end in batch)
        assert not is_reading or sum(end - start for _, start, end in batch) <= max_batch_tokens
    assert scheduler._pages.num_free == num_pages


@settings(max_examples=200)
@given(
    prompts,
    st.integers(11, 40),
    st.integers(1, 5),
    st.integers(1, 40),
    st.sets(st.integers(0, 6)),
    st.integers(1, 40),
    st.integers(20, 200),
)
def test_no_token_and_no_key_depends_on_when_tokens_are_known_nor_on_what_a_pass_does_beside(
    asked: list[tuple[list[int], int]],
    num_pages: int,
    max_num_seqs: int,
    max_batch_tokens: int,
    stop_ids: set[int],
    most_read_beside: int,
    most_keys_beside: int,
) -> None:
    written = []
    for looks_ahead, reads_beside, at_once in product([False, True], [False, True], [1, 3]):
        drafts = [draft(prompt, num_new, stop_ids=stop_ids) for prompt, num_new in asked]
        scheduler = make(num_pages, max_num_seqs=max_num_seqs, max_batch_tokens=max_batch_tokens)
        with patch.multiple(
            scheduler_module, MOST_READ_BESIDE=most_read_beside, _MOST_KEYS_BESIDE=most_keys_beside
        ):
            run(
                scheduler,
                drafts,
                next_token=lambda ids: sum(ids) % 7,
                looks_ahead=looks_ahead,
                reads_beside=reads_beside,
                at_once=at_once,
            )
        written.append([one.ids for one in drafts])
        assert scheduler._pages.num_free == num_pages
    assert written == written[:1] * 8


def growing_and(prompt: list[int], *, num_growing: int, num_pages: int = 400) -> Scheduler:
    """That has read these prompts, and then gets another one."""
    scheduler = make(num_pages, max_num_seqs=64, max_batch_tokens=5000)
    for i in range(num_growing):
        scheduler.add(draft([i, i, i], 90))
    pass_of(scheduler)
    scheduler.add(draft(prompt, 1))
    return scheduler


def pass_of(scheduler: Scheduler) -> list[tuple[int, int]]:
    """How many tokens of how many drafts are computed, by their number."""
    batch = scheduler.next_batch(reads_beside=True)
    sizes = Counter(chunk.end - chunk.start for chunk in batch)
    scheduler.begin_pass(batch)
    tell(scheduler, [(one, 9) for one in batch.getting])
    return sorted(sizes.items())


def test_a_short_prompt_is_read_while_the_others_grow() -> None:
    scheduler = growing_and([7] * 60, num_growing=5)
    assert pass_of(scheduler) == [(1, 5), (60, 1)]
    assert pass_of(scheduler) == [(1, 5)]


def test_growing_is_stopped_once_what_waits_outweighs_it() -> None:
    scheduler = growing_and([7] * 1500, num_growing=1)
    assert [pass_of(scheduler) for _ in range(4)] == [
        *[[(1, 1), (256, 1)]] * 3,  # it waited for three passes, and reading takes as long as two
        [(1500 - 3 * 256, 1)],
    ]
    assert pass_of(scheduler) == [(1, 1)]


def test_prompts_are_read_alone_where_nothing_grows_and_they_are_long() -> None:
    assert pass_of(growing_and([7] * 600, num_growing=0)) == [(600, 1)]


def test_what_prompts_share_is_read_once_beside_too() -> None:
    scheduler = growing_and([8] * 60, num_growing=4, num_pages=4000)
    for _ in range(3):
        scheduler.add(draft([7] * 3000, 1))
    num_read = 0
    while (sizes := pass_of(scheduler)) != [(1, 4)]:
        num_read += sum(size * count for size, count in sizes if size > 1)
    assert 3060 <= num_read <= 3060 + 2 * SIZE


def test_prompts_that_waited_and_are_gone_stop_nobody() -> None:
    scheduler = growing_and([7] * 3000, num_growing=4, num_pages=4000)
    for _ in range(9):
        assert pass_of(scheduler) == [(1, 4), (172, 1)]  # 2**19 keys for each, up to whole pages
    scheduler.remove([one for one in scheduler._running if one.num_prompt == 3000])
    assert pass_of(scheduler) == [(1, 4)]
    scheduler.add(draft([8] * 60, 1))
    for _ in range(2):
        scheduler.add(draft([9] * 3000, 1))
    assert pass_of(scheduler)[0] == (1, 4)


def test_no_more_is_read_beside_than_in_a_pass_that_only_reads() -> None:
    scheduler = make(400, max_batch_tokens=32)
    scheduler.add(draft([1], 9))
    pass_of(scheduler)
    scheduler.add(draft([7] * 300, 1))
    assert pass_of(scheduler) == [(1, 1), (32, 1)]


def test_reading_beside_displaces_nobody() -> None:
    scheduler = growing_and([7], num_growing=20, num_pages=60)
    pass_of(scheduler)
    scheduler.add(draft([7] * 60, 1))
    assert pass_of(scheduler) == [(1, 20)]  # each of which takes a second page now
    assert scheduler.load.num_running == 21


def test_of_a_long_context_fewer_tokens_are_read_beside() -> None:
    ((_, _), (size, _)) = pass_of(growing_and([7] * 5000, num_growing=2, num_pages=2000))
    assert size == 2**19 // 5000


def test_a_token_that_is_computed_behind_the_end_is_dropped() -> None:
    one, other = draft([1] * 3, 9, stop_ids=[5]), draft([2] * 3, 4)
    passes = run(make(40), [one, other], looks_ahead=True)
    assert one.ids == [1, 1, 1, 3, 4, 5]
    assert passes[3] == [(0, 5, 6), (1, 5, 6)]  # its end was not known yet
    assert other.ids == [2, 2, 2, 3, 4, 5, 6]
    assert passes[4:] == [[]]  # where a draft has its last token under way, nothing is begun


@settings(max_examples=50)
@given(prompts, st.integers(11, 20))
def test_the_same_drafts_in_the_same_order_give_the_same_passes(
    asked: list[tuple[list[int], int]], num_pages: int
) -> None:
    first, second = (run(make(num_pages), [draft(*one) for one in asked]) for _ in range(2))
    assert first == second


def test_what_prompts_share_is_read_once_however_many_ask_at_the_same_time() -> None:
    passes = run(make(40), [draft([7] * 21, 1) for _ in range(8)])
    read = Counter(place for batch in passes for _, s, e in batch for place in range(s, e))
    assert [read[place] for place in range(20)] == [1] * 20
    assert read[20] == 8


def test_a_prompt_that_loses_its_room_while_it_is_read_leaves_the_pass_to_the_others() -> None:
    scheduler = make(11, max_num_seqs=5, max_batch_tokens=1)
    lengths = [1, 1, 1, 9, 22]
    run(scheduler, [draft([n] * n, 1) for n in lengths])
    asked = [(1, 1), (4, 2), (4, 2), (16, 2), (8, 2), (5, 1)]
    run(make(13), [draft([i] * n, num_new) for i, (n, num_new) in enumerate(asked)])


def test_short_prompts_that_are_alike_do_not_wait_for_each_other() -> None:
    assert len(run(make(40), [draft([7] * 3, 1) for _ in range(8)])) == 1


def test_a_later_prompt_finds_the_completion_of_an_earlier_one() -> None:
    scheduler, cache = make(40), Cache()
    first = draft([1] * 6, 9)
    run(scheduler, [first], cache=cache)
    (batch, *_) = run(scheduler, [draft([*first.ids, 5, 5], 1)], cache=cache)
    # 15 tokens were written, 14 of them computed: three whole pages.
    assert batch == [(0, 12, 17)]


def test_forgotten_pages_are_never_found_again_under_a_new_content() -> None:
    pages = Pages(2, SIZE)
    first = pages.take()
    name = pages.publish(first, [1, 1, 1, 1], before=NOTHING)
    child = pages.take()
    pages.publish(child, [2, 2, 2, 2], before=name)
    pages.release([first, child])
    other = [pages.take(), pages.take()]
    new_name = pages.publish(other[0], [9, 9, 9, 9], before=NOTHING)
    assert new_name != name
    assert pages.find([2, 2, 2, 2], before=new_name) is None
    assert pages.find([1, 1, 1, 1], before=NOTHING) is None


def test_removed_drafts_make_room_whether_they_wait_or_run() -> None:
    scheduler = make(10, max_num_seqs=1)
    running, waiting = draft([1] * 9, 5), draft([2] * 9, 5)
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.next_batch()
    scheduler.remove([running, waiting])
    assert not scheduler.has_work
    assert scheduler._pages.num_free == 10


def test_a_folded_history_that_grew_is_read_from_its_first_new_page_on() -> None:
    """Finished prompts stay known: two agents whose prompts grow in the middle, by turns."""
    scheduler, cache = make(64), Cache()
    history, closing = list(range(100, 110)), [7, 8]
    seen: dict[int, list[int]] = {}
    for turn in range(12):
        agent = turn % 2
        prompt = [agent, *history, *closing]
        passes = run(scheduler, [draft(prompt, 3)], cache=cache)
        read_from = min(start for batch in passes for _, start, _ in batch)
        known = seen.get(agent, [])
        num_common = next(
            (i for i, (a, b) in enumerate(zip(known, prompt, strict=False)) if a != b), len(known)
        )
        assert num_common - SIZE < read_from <= num_common
        seen[agent] = prompt
        history += [200 + 10 * turn + i for i in range(5)]


def test_a_scheduler_tells_how_busy_it_is() -> None:
    scheduler = make(4, max_num_seqs=1)
    for _ in range(2):
        scheduler.add(draft([1] * 5, 1))
    assert (scheduler.load.num_running, scheduler.load.num_waiting) == (0, 2)
    scheduler.next_batch()
    load = scheduler.load
    assert (load.num_running, load.num_waiting) == (1, 1) and 0 < load.cache_share <= 1
