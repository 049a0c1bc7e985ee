"""The order of drafts and the sides, known from the seed before anything is asked."""

from collections import Counter
from itertools import count, islice, pairwise, product

from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import SIDES, DraftTurn
from astuner.task_generation.plan import DraftPlan, identity_of
from astuner.task_generation.split import DecidedSides, num_wanted, split_material
from tests.task_generation.small_sets import STYLES, make_chunks, make_seeds


def make_plan(
    chunks: list[DocumentChunk],
    *,
    num_seeds: int = 0,
    fraction: float = 0.2,
    test_fraction: float = 0.0,
    seed: int = 1,
    is_repeatable: bool = False,
) -> DraftPlan:
    material = split_material(
        chunks,
        make_seeds(num_seeds),
        decided=DecidedSides(),
        validation_fraction=fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    return DraftPlan(
        chunks=material.chunks,
        seeds=material.seeds,
        styles=STYLES,
        num_examples=2,
        language=None,
        validation_fraction=fraction,
        test_fraction=test_fraction,
        seed=seed,
        is_repeatable=is_repeatable,
    )


def turns_of(plan: DraftPlan, num_turns: int) -> list[DraftTurn]:
    turns = [plan.turn(number) for number in range(num_turns)]
    return [turn for turn in turns if turn is not None]


def test_every_chunk_has_its_turn_before_any_has_a_second() -> None:
    turns = turns_of(make_plan(make_chunks(a=7, b=2, c=1), fraction=0.0), 30)
    for first in (0, 10, 20):
        names = {(turn.chunk.document, turn.chunk.number) for turn in turns[first : first + 10]}
        assert len(names) == 10
        assert {turn.round for turn in turns[first : first + 10]} == {first // 10}


def test_a_few_turns_cover_the_documents_evenly() -> None:
    turns = turns_of(make_plan(make_chunks(a=90, b=90, c=90, d=90), fraction=0.0), 8)
    assert Counter(turn.chunk.document for turn in turns) == dict.fromkeys(
        ("a.md", "b.md", "c.md", "d.md"), 2
    )
    assert sum(turn.chunk.number for turn in turns) > 8 * 10  # not the first chunks only


def test_styles_and_difficulties_come_in_turns_and_each_pair_once_for_a_chunk() -> None:
    plan = make_plan(make_chunks(a=5), fraction=0.0, is_repeatable=True)
    turns = turns_of(plan, 100)
    assert [turn.style.name for turn in turns[:4]] == ["fact", "steps", "fact", "steps"]
    assert {turn.difficulty for turn in turns[:3]} == {"easy", "medium", "hard"}
    kinds = {(turn.chunk.number, turn.style.name, turn.difficulty) for turn in turns}
    assert len(turns) == len(kinds) == 5 * 2 * 3
    assert plan.is_over("train", 30) and not plan.is_over("train", 29)


def test_the_sides_are_interleaved_in_proportion() -> None:
    plan = make_plan(make_chunks(a=3, b=3, c=3, d=3, e=3), fraction=0.2)
    for number in range(5, 101, 5):
        sides = Counter(plan.side_of(turn) for turn in range(number))
        assert sides["validation"] == number / 5


def test_training_and_validation_share_no_document_chunk_or_example() -> None:
    turns = turns_of(make_plan(make_chunks(a=3, b=3, c=3), num_seeds=9, fraction=0.3), 200)
    for shared in (
        lambda turn: {turn.chunk.document},
        lambda turn: {task.task_id for task in turn.examples},
    ):
        on = {
            side: [shared(t) for t in turns if t.side == side] for side in ("train", "validation")
        }
        assert set.union(*on["train"]).isdisjoint(set.union(*on["validation"]))


def test_one_document_is_split_by_its_chunks() -> None:
    turns = turns_of(make_plan(make_chunks(a=4), fraction=0.2), 40)
    validated = {turn.chunk.number for turn in turns if turn.side == "validation"}
    trained = {turn.chunk.number for turn in turns if turn.side == "train"}
    assert len(validated) == 1 and len(trained) == 3 and validated.isdisjoint(trained)


def test_equal_texts_of_two_documents_have_one_turn() -> None:
    chunks = make_chunks(a=2, b=2)
    copies = [DocumentChunk(document="copy.md", number=c.number, text=c.text) for c in chunks[:2]]
    turns = turns_of(make_plan([*chunks, *copies], fraction=0.0), 4)
    assert len({turn.chunk.digest for turn in turns}) == 4


def test_seeds_alone_lead_a_turn_each_with_others_of_their_side() -> None:
    plan = make_plan([], num_seeds=10, fraction=0.2)
    turns = list(islice((plan.turn(number) for number in count()), 10))
    assert all(turn.chunk is None and len(turn.examples) == 2 for turn in turns)
    assert len({turn.examples[0].task_id for turn in turns}) == 10


def test_another_seed_gives_another_order_and_the_same_seed_the_same() -> None:
    plans = [make_plan(make_chunks(a=9, b=9), seed=seed) for seed in (1, 1, 2)]
    identities = [[identity_of(turn) for turn in turns_of(plan, 18)] for plan in plans]
    assert identities[0] == identities[1] != identities[2]


def test_no_side_is_empty_where_two_documents_are_there() -> None:
    for seed in range(20):
        for fraction in (0.01, 0.5, 0.99):
            plan = make_plan(make_chunks(a=2, b=2), fraction=fraction, seed=seed)
            assert plan.num_units("train") > 0 and plan.num_units("validation") > 0


def test_three_sides_share_no_document_and_have_turns_in_proportion() -> None:
    for seed in range(5):
        chunks = make_chunks(**dict.fromkeys("abcdefghij", 3))
        plan = make_plan(chunks, fraction=0.2, test_fraction=0.3, seed=seed)
        assert [plan.num_units(side) for side in SIDES] == [15, 6, 9]
        turns = turns_of(plan, 100)
        assert Counter(turn.side for turn in turns) == {"train": 50, "validation": 20, "test": 30}
        of_documents = {(turn.chunk.document, turn.side) for turn in turns}
        assert len(of_documents) == 10
        places = [{turn.number for turn in turns if turn.side == side} for side in SIDES]
        assert sum(map(len, places)) == len(set().union(*places)) == 100


def test_too_few_documents_leave_the_test_empty_before_the_validation_and_training() -> None:
    for num_documents, expected in ((1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1))):
        plan = make_plan([], num_seeds=num_documents, fraction=0.2, test_fraction=0.2)
        assert tuple(plan.num_units(side) for side in SIDES) == expected
        assert {turn.side for turn in turns_of(plan, 30)} == set(SIDES[:num_documents])


def test_a_test_that_is_wanted_later_takes_its_share_from_training_only() -> None:
    chunks = make_chunks(**dict.fromkeys("abcdefghij", 2))
    sides = {"validation_fraction": 0.2, "seed": 1}
    before = split_material(chunks, (), decided=DecidedSides(), **sides).decided
    after = split_material(chunks, (), decided=before, test_fraction=0.2, **sides).decided
    moved = {(before.documents[n], after.documents[n]) for n in before.documents}
    assert moved == {("train", "train"), ("train", "test"), ("validation", "validation")}
    assert Counter(after.documents.values()) == {"train": 6, "validation": 2, "test": 2}


def test_sides_that_were_decided_stay_when_documents_come_and_go() -> None:
    decided = DecidedSides()
    known: dict[str, str] = {}
    for names in ("abc", "abcdefg", "cdefghij", "cxyz"):
        material = split_material(
            make_chunks(**dict.fromkeys(names, 2)),
            (),
            decided=decided,
            validation_fraction=0.3,
            seed=3,
        )
        decided = material.decided
        assert known.items() <= decided.documents.items()
        known = dict(decided.documents)


def test_where_more_tasks_are_wanted_no_side_gets_fewer() -> None:
    for fraction, test in product((0.0, 0.05, 0.2, 0.5, 0.9), (0.0, 0.09, 0.3, 0.49)):
        if fraction + test >= 1:
            continue
        wanted = [
            num_wanted(number, validation_fraction=fraction, test_fraction=test)
            for number in range(1, 200)
        ]
        for before, after in pairwise(wanted):
            assert all(before[side] <= after[side] for side in before)
            assert before["train"] >= 1


def test_documents_that_are_added_change_no_question_about_those_that_were_there() -> None:
    before = make_chunks(c=4, d=3, e=1, f=2)
    asked = [
        {
            (turn.chunk.digest, turn.round, turn.style.name, turn.difficulty)
            for turn in turns_of(make_plan(chunks, fraction=0.0), 3 * len(chunks))
            if turn.chunk.document in {"c.md", "d.md", "e.md", "f.md"}
        }
        for chunks in (before, [*make_chunks(a=2, b=1), *before, *make_chunks(g=5)])
    ]
    assert asked[0] == asked[1]


def test_a_document_that_is_added_leaves_the_order_of_the_others() -> None:
    few, many = (
        [turn.chunk for turn in turns_of(make_plan(chunks, fraction=0.0), len(chunks))]
        for chunks in (
            make_chunks(**dict.fromkeys("bdfhj", 1)),
            make_chunks(**dict.fromkeys("abcdefghij", 1)),
        )
    )
    assert [chunk for chunk in many if chunk in few] == few


def test_kinds_are_spread_over_many_short_documents() -> None:
    chunks = make_chunks(**{f"d{number}": 1 for number in range(300)})
    kinds = Counter(
        (turn.style.name, turn.difficulty)
        for turn in turns_of(make_plan(chunks, fraction=0.0), 300)
    )
    assert len(kinds) == 6 and min(kinds.values()) > 300 / 6 / 2
