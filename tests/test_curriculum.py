"""Tasks dealt by how often they are solved: pools, their weights, what a run learns of them."""

import io
import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from astuner.backbone.cluster.hub import Hub
from astuner.backbone.cluster.messages import SavedState
from astuner.backbone.cluster.stored_curriculum import StoredCurriculum
from astuner.backbone.curriculum_steps import CurriculumSteps
from astuner.backbone.worker_run import WorkerRun
from astuner.config.load import load_mapping
from astuner.errors import BackboneError, ConfigError
from astuner.run_dir import RunDir
from astuner.task_reader.curriculum import (
    POOLS,
    CurriculumOrder,
    DifficultyRules,
    has_unusable_rate,
    known_rate,
    make_order,
)
from astuner.task_reader.order import TaskOrder
from astuner.trajectory.attempt import Failure
from astuner.trajectory.episode import Group
from astuner.trajectory.record import episode_to_record
from astuner.types import Task
from tests.runs import make_run
from tests.test_hub import at_once, make_settings
from tests.test_roles import make_episode

RULES = DifficultyRules(
    easy_above=0.8,
    hard_below=0.2,
    weights={"unknown": 1.0, "easy": 0.2, "medium": 1.0, "hard": 0.5},
    memory=0.7,
)


def with_weights(**weights):
    return replace(RULES, weights=dict.fromkeys(POOLS, 0.0) | weights)


def make(rates, *, rules=RULES, batch_size=4, seed=1, **mixed):
    return CurriculumOrder(rates, rules=rules, batch_size=batch_size, seed=seed, **mixed)


def tell(order, batch, rate_of):
    """Each task of the batch was solved that often, of 100 times."""
    for index in batch:
        order.tell(index, num_solved=round(100 * rate_of(index)), num_judged=100)


def test_a_task_without_a_measurement_is_unknown_and_the_first_is_its_rate():
    order = make([None] * 4)
    assert order.pool_sizes() == {"unknown": 4, "easy": 0, "medium": 0, "hard": 0}
    tell(order, order.next_batch(), lambda index: (0.0, 0.5, 0.8, 1.0)[index])
    assert [order.pool_of(index) for index in range(4)] == ["hard", "medium", "medium", "easy"]


def test_what_was_known_fades_by_the_memory():
    order = make([0.5] * 4)
    order.next_batch()
    order.tell(0, num_solved=4, num_judged=4)
    order.tell(0, num_solved=4, num_judged=4)
    assert order.state()["pass_rates"] == pytest.approx([0.7 * 0.65 + 0.3, 0.5, 0.5, 0.5])


def test_failed_episodes_alone_leave_a_task_as_it_was():
    order = make([None, 0.5, 0.9, 0.1])
    for index in order.next_batch():
        order.tell(index, num_solved=0, num_judged=0)
    assert order.state()["pass_rates"] == [None, 0.5, 0.9, 0.1]
    assert sorted(order.next_batch()) == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [True, "0.5", -0.1, 1.1, float("nan"), [0.5]])
def test_a_pass_rate_that_is_none_is_not_used_and_told(value):
    task = Task(main_query="?", task_id="odd", metadata={"pass_rate": value})
    assert known_rate(task) is None
    assert has_unusable_rate(task)
    steps = CurriculumSteps(make([None], batch_size=1), [task])
    assert steps.describe() == (
        "curriculum: 1 unknown, 0 easy, 0 medium, 0 hard; the pass_rate of 1 tasks, such as odd, "
        "is no number from 0 to 1 and not used"
    )


@pytest.mark.parametrize(("metadata", "rate"), [({}, None), ({"pass_rate": None}, None)])
def test_a_task_may_have_no_pass_rate(metadata, rate):
    task = Task(main_query="?", task_id="t", metadata=metadata)
    assert known_rate(task) is rate
    assert not has_unusable_rate(task)


def test_a_run_begins_with_the_rates_of_its_tasks():
    settings = make_settings(trainer_common__curriculum__enabled=True)
    tasks = [
        Task(main_query="?", task_id=str(i), metadata={"pass_rate": rate})
        for i, rate in enumerate((0, 0.5, 1))
    ]
    order = make_order(load_mapping(settings, name="test").settings, tasks)
    assert isinstance(order, CurriculumOrder)
    assert order.pool_sizes() == {"unknown": 0, "easy": 1, "medium": 1, "hard": 1}


def test_without_the_setting_tasks_come_in_passes():
    settings = load_mapping(make_settings(), name="test").settings
    tasks = [Task(main_query="?", task_id=str(i)) for i in range(5)]
    order = make_order(settings, tasks)
    assert isinstance(order, TaskOrder)
    assert order.next_batch() == TaskOrder(5, batch_size=2, seed=42).next_batch()


def test_pools_have_their_weights_in_each_batch_and_over_all():
    rates = [None] * 100 + [0.9] * 100 + [0.5] * 100 + [0.1] * 100
    order, dealt = make(rates, batch_size=9), Counter()
    for number in range(1, 41):
        batch = order.next_batch()
        pools = Counter(order.pool_of(index) for index in batch)
        for index in batch:
            order.tell(index, num_solved=0, num_judged=0)
        dealt += pools
        for pool, weight in RULES.weights.items():
            assert abs(pools[pool] - 9 * weight / 2.7) < 1.5
            assert abs(dealt[pool] - 9 * number * weight / 2.7) < 1


def test_a_pool_that_is_too_small_gives_its_part_to_the_others():
    order = make([0.5, 0.5, *[0.1] * 20, *[0.9] * 20], batch_size=12)
    pools = Counter(order.pool_of(index) for index in order.next_batch())
    assert pools["medium"] == 2
    assert pools["hard"] == 7
    assert pools["easy"] == 3


def test_a_pool_without_a_weight_gives_only_where_no_other_can():
    order = make([0.5] * 5 + [0.9] * 20, rules=with_weights(medium=1.0))
    assert {order.pool_of(index) for index in order.next_batch()} == {"medium"}
    assert [order.pool_of(index) for index in order.next_batch()] == ["medium"] + ["easy"] * 3


def test_in_a_pool_the_task_comes_that_was_dealt_longest_ago():
    order = make([0.5] * 6, batch_size=3)
    first = order.next_batch()
    tell(order, first, lambda _: 0.5)
    second = order.next_batch()
    tell(order, second, lambda _: 0.5)
    assert sorted(first + second) == list(range(6))
    assert order.next_batch() == first


def test_the_first_order_is_that_of_the_seed():
    rates = [None] * 30
    first = make(rates, batch_size=30).next_batch()
    assert first == make(rates, batch_size=30).next_batch()
    assert first != make(rates, batch_size=30, seed=2).next_batch()


def test_a_task_that_is_out_is_not_dealt_again_while_another_is_there():
    order = make([0.5] * 3 + [0.1] * 3, batch_size=2)
    assert sorted(i for _ in range(3) for i in order.next_batch()) == list(range(6))
    again = order.next_batch()
    assert len(set(again)) == 2
    for index in again:  # the news of both times
        order.tell(index, num_solved=1, num_judged=1)
        order.tell(index, num_solved=1, num_judged=1)
    assert sorted(i for _ in range(3) for i in order.next_batch()) == list(range(6))


def test_a_batch_is_the_same_whether_it_is_asked_for_whole_or_task_by_task():
    rates = [None] * 5 + [0.9] * 5 + [0.5] * 5 + [0.1] * 5
    whole, parts = make(rates), make(rates)
    for _ in range(8):
        batch = whole.next_batch()
        assert [index for _ in batch for index in parts.next_batch(1)] == batch
        tell(whole, batch, lambda index: index / 20)
        tell(parts, reversed(batch), lambda index: index / 20)


@pytest.mark.parametrize("seed", range(30))
def test_every_task_of_a_pool_with_a_weight_comes_again_and_no_batch_has_one_twice(seed):
    rng = random.Random(seed)
    size = rng.randint(8, 40)
    weights = {pool: rng.choice([0.2, 0.5, 1.0, 3.0]) for pool in POOLS}
    order = make(
        [rng.choice([None, rng.random()]) for _ in range(size)],
        rules=replace(RULES, weights=weights, memory=rng.choice([0.0, 0.7])),
        batch_size=rng.randint(1, 8),
        seed=seed,
    )
    longest = 2 * size * sum(weights.values()) / min(weights.values())
    dealt_at, place, late = dict.fromkeys(range(size), 0), 0, []
    while place < 3 * longest:
        batch = order.next_batch()
        assert len(set(batch)) == len(batch)
        for index in batch:
            assert place - dealt_at[index] <= longest
            dealt_at[index], place = place, place + 1
        late.append(batch)
        if len(late) > seed % 3:  # news may be a batch or two behind
            tell(order, late.pop(0), lambda _: rng.random())
    assert all(place - then <= longest for then in dealt_at.values())


@pytest.mark.parametrize("num_batches_before", range(0, 12, 3))
@pytest.mark.parametrize("mixed", [False, True])
def test_a_resumed_order_deals_as_if_it_had_not_stopped(num_batches_before, mixed):
    def make_one():
        rates = [None] * 10 + [0.5, 0.1, 0.9] * 4
        if not mixed:
            return make(rates)
        sources = ["a"] * 10 + ["b"] * 12
        return make(rates, sources=sources, shares={"a": 0.3, "b": 0.7})

    def go(order, count):
        batches = []
        for _ in range(count):
            batches.append(order.next_batch())
            tell(order, batches[-1], lambda index: index % 5 / 4)
        return batches, order.epoch

    order, resumed = make_one(), make_one()
    go(order, num_batches_before)
    resumed.go_on(json.loads(json.dumps(order.state())))
    assert go(resumed, 20) == go(order, 20)


def test_a_state_does_not_change_with_its_order():
    order = make([0.5] * 4)
    state = order.state()
    before = json.dumps(state)
    tell(order, order.next_batch(), lambda _: 1.0)
    assert json.dumps(state) == before


def test_other_rules_hold_from_where_a_run_goes_on():
    order = make([0.7] * 8)
    resumed = make([0.7] * 8, rules=replace(RULES, easy_above=0.6))
    resumed.go_on(order.state())
    assert resumed.pool_sizes()["easy"] == 8


def test_a_curriculum_is_turned_on_and_off_where_a_run_goes_on():
    passes, curriculum = TaskOrder(8, batch_size=4, seed=1), make([0.5] * 7 + [None])
    passes.next_batch()
    curriculum.next_batch()
    turned_on, turned_off = make([0.5] * 7 + [None]), TaskOrder(8, batch_size=4, seed=1)
    turned_on.go_on(passes.state())
    turned_off.go_on(curriculum.state())
    assert turned_on.pool_sizes() == {"unknown": 1, "easy": 0, "medium": 7, "hard": 0}
    assert turned_off.next_batch() == TaskOrder(8, batch_size=4, seed=1).next_batch()
    with pytest.raises(ConfigError, match="with 8 training tasks, now there are 9"):
        make([None] * 9).go_on(passes.state())


def test_an_incomplete_state_is_refused():
    state = make([0.5] * 8).state()
    del state["dealt_at"]
    with pytest.raises(ConfigError, match=r"lacks \['dealt_at'\]"):
        make([0.5] * 8).go_on(state)


def test_the_shares_of_sources_hold_and_each_has_pools_of_its_own():
    rates = [0.5] * 20 + [0.9] * 20
    sources = ["a"] * 20 + ["b"] * 20
    order = make(rates, sources=sources, shares={"a": 3, "b": 1}, rules=with_weights(medium=1.0))
    for _ in range(10):
        batch = order.next_batch()
        assert Counter(sources[index] for index in batch) == {"a": 3, "b": 1}
        tell(order, batch, lambda index: rates[index])


def test_too_few_tasks_are_refused_as_without_a_curriculum():
    with pytest.raises(ConfigError, match="is 4, but there are 3 training tasks"):
        make([None] * 3)
    with pytest.raises(ConfigError, match=r"sources.b: has 1 training tasks.* up to 2"):
        make([None] * 9, sources=["a"] * 8 + ["b"], shares={"a": 1, "b": 1})


def test_an_epoch_is_as_many_batches_as_all_tasks_fill():
    order = make([0.5] * 8)
    assert (order.batches_per_epoch, order.epoch) == (2, 0)
    epochs = []
    for _ in range(5):
        order.next_batch()
        epochs.append(order.epoch)
    assert epochs == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({f"weights__{pool}": 0.0 for pool in POOLS}, "curriculum.weights are all 0"),
        ({"hard_below": 0.9}, r"hard_below = 0.9 .* is above .*easy_above = 0.8"),
    ],
)
def test_rules_without_sense_are_refused(changed, problem):
    changed = {f"trainer_common__curriculum__{key}": value for key, value in changed.items()}
    load_mapping(make_settings(**changed), name="test")
    with pytest.raises(ConfigError, match=problem):
        load_mapping(
            make_settings(trainer_common__curriculum__enabled=True, **changed), name="test"
        )


def test_a_step_is_told_by_the_success_of_its_judged_episodes():
    tasks = [Task(main_query="?", task_id=name) for name in "abc"]
    order = make([None] * 3, batch_size=3)
    steps = CurriculumSteps(order, tasks)
    assert sorted(steps.deal(1, 3)) == [0, 1, 2]
    failure = Failure(kind="WorkflowError", message="it broke", traceback="")
    solved, unsolved = make_episode(0, 1.0), make_episode(1, 0.0)
    failed = replace(unsolved, verdict=None, failure=failure)
    metrics = steps.finish(
        1,
        [
            Group(task=tasks[0], episodes=(solved, unsolved, failed)),
            Group(task=tasks[1], episodes=(failed, failed)),
        ],
    )
    assert steps.state()["pass_rates"] == [0.5, None, None]
    assert metrics == {
        "curriculum/dealt_unknown": 3,
        "curriculum/dealt_easy": 0,
        "curriculum/dealt_medium": 0,
        "curriculum/dealt_hard": 0,
        "curriculum/pool_unknown": 2,
        "curriculum/pool_easy": 0,
        "curriculum/pool_medium": 1,
        "curriculum/pool_hard": 0,
    }


SHARED = {"data__train_batch_size": 2, "trainer_common__curriculum__enabled": True}
EIGHT = [Task(main_query="?", task_id=str(i), metadata={"pass_rate": 0.5}) for i in range(8)]


def open_stored(folder, *, first_step=0, screen=None, tasks=EIGHT, **changed):
    """A curriculum as a start of a clustered run has it, which continues behind that step."""
    settings = make_settings(
        **{**SHARED, "trainer_common__checkpoint_base_dir": str(folder)} | changed
    )
    run_dir = RunDir(root=folder / "runs" / "test" / "now")
    run = make_run(load_mapping(settings, name="test"), run_dir, screen=screen)
    return run, StoredCurriculum.open(run, tasks, first_step=first_step)


def make_hub(folder, **options):
    run, curriculum = open_stored(folder, **options)
    return Hub(WorkerRun.of(run), {"train": EIGHT, "validation": []}, curriculum)


def lines_of(task, step):
    """Three episodes of a task as they are brought to a hub; of a task of even id one is right, of
    the others two."""
    num_right = 1 + int(task.task_id[-1]) % 2
    for attempt in range(3):
        episode = make_episode(attempt, float(attempt < num_right), task=task.task_id)
        yield json.dumps(episode_to_record(replace(episode, task=task, step=step))).encode()


def roll_out(hub, step, plan):
    """Deal the step, bring its episodes, and have it planned."""
    indices = hub.deal(step, 2)
    for index in indices:
        for line in lines_of(EIGHT[index], step):
            at_once(hub.add_episode(line, group=f"g{index}"))
    getattr(hub, plan)(step)
    hub.finish_step(step, {"train/updates": 1.0})
    return indices


@pytest.mark.parametrize("plan", ["plan", "plan_of_what_is_there"])
def test_the_hub_of_a_cluster_deals_learns_and_goes_on_as_if_it_had_not_stopped(tmp_path, plan):
    hub = make_hub(tmp_path / "whole")
    whole = [roll_out(hub, step, plan) for step in range(1, 9)]
    (first, *_) = hub.news().steps
    assert first["curriculum/dealt_medium"] == 2
    assert first["curriculum/pool_medium"] == 8

    hub = make_hub(tmp_path / "parts")
    assert [roll_out(hub, step, plan) for step in range(1, 6)] == whole[:5]
    screen = io.StringIO()
    hub = make_hub(tmp_path / "parts", first_step=3, screen=screen)  # where the engine had saved
    assert [roll_out(hub, step, plan) for step in range(4, 9)] == whole[3:]
    assert "curriculum: 0 unknown, 0 easy, 8 medium, 0 hard" in screen.getvalue()


def states(folder):
    return sorted(path.name for path in folder.glob("**/curriculum/*"))


def test_states_before_the_engine_s_newest_are_forgotten(tmp_path):
    hub = make_hub(tmp_path)
    for step in range(1, 5):
        roll_out(hub, step, "plan")
    assert states(tmp_path) == [f"step_{step}.json" for step in range(1, 5)]
    hub.saved(SavedState(step=3, weights="", probes=()))
    assert states(tmp_path) == ["step_3.json", "step_4.json"]


def test_a_clustered_run_that_turned_it_off_for_a_while_begins_with_the_rates_of_its_tasks(
    tmp_path,
):
    hub = make_hub(tmp_path)
    for step in range(1, 4):
        roll_out(hub, step, "plan")
    off, screen = {"trainer_common__curriculum__enabled": False}, io.StringIO()
    assert open_stored(tmp_path, first_step=2, screen=screen, **off)[1] is None
    assert states(tmp_path) == []
    assert "curriculum: turned off" in screen.getvalue()


def test_a_state_that_cannot_be_read_is_named(tmp_path):
    hub = make_hub(tmp_path)
    roll_out(hub, 1, "plan")
    (state,) = tmp_path.glob("**/curriculum/step_1.json")
    state.write_text("{")
    with pytest.raises(BackboneError, match=r"step_1.json cannot be read .* move it away"):
        open_stored(tmp_path, first_step=1)


@pytest.mark.parametrize(
    "tasks",
    [
        [*EIGHT[:-1], Task(main_query="?", task_id="other", metadata={"pass_rate": 0.5})],
        [*EIGHT[:-1], EIGHT[-1].model_copy(update={"main_query": "!"})],
        EIGHT[::-1],
        EIGHT[:-1],
    ],
)
def test_what_was_learned_of_other_tasks_is_refused(tmp_path, tasks):
    """Else it would be taken for that of the tasks in their places."""
    hub = make_hub(tmp_path)
    roll_out(hub, 1, "plan")
    before = states(tmp_path)
    with pytest.raises(ConfigError, match=r"tasks are not those .*step_1.json"):
        open_stored(tmp_path, first_step=1, tasks=tasks)
    assert states(tmp_path) == before
    assert open_stored(tmp_path, first_step=1)[1] is not None


def test_of_a_step_that_an_engine_lost_nothing_is_learned():
    steps = CurriculumSteps(make([None] * 8, batch_size=4), EIGHT)
    lost, kept = steps.deal(1, 4), steps.deal(2, 4)
    steps.finish(2, [Group(task=EIGHT[i], episodes=(make_episode(0, 1.0),)) for i in kept])
    rates = steps.state()["pass_rates"]
    assert [rates[index] for index in lost + kept] == [None] * 4 + [1.0] * 4
    assert sorted(steps.deal(3, 8)) == list(range(8))
