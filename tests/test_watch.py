"""What the command does while a cluster works: writing down, showing, and giving up."""

import asyncio
import inspect
import io
import json
import time
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import pytest

from astuner.backbone.cluster import watch as watch_module
from astuner.backbone.cluster.messages import SAVING, Phase, SavedState
from astuner.backbone.cluster.watch import Deadlines, Watch, follow_to_end
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.grace import Grace
from astuner.backbone.reporter import Reporter
from astuner.config.load import load_mapping
from astuner.errors import BackboneError
from astuner.logview.reading.metrics import MetricsReader
from astuner.run_dir import RunDir, read_json_lines
from astuner.trajectory.attempt import Failure
from astuner.trajectory.record import episode_from_record, episode_to_record
from tests.runs import make_run
from tests.test_hub import add, make_hub, make_settings, three
from tests.test_roles import make_episode


class HubHere:
    """A hub in this process, spoken to as one on a cluster is."""

    def __init__(self, hub):
        self._hub = hub

    def __getattr__(self, name):
        return _Remote(getattr(self._hub, name))


class _Remote:
    def __init__(self, call):
        self._call = call

    async def remote(self, *args, **kwargs):
        answer = self._call(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer


class NotedGrace(Grace):
    """Notes whether what is being written is waited for."""

    is_saving = False

    @contextmanager
    def saving(self):
        assert not self.is_saving
        self.is_saving = True
        try:
            yield
        finally:
            self.is_saving = False


class Following:
    """A hub, a watch over it, and what the watch says and writes."""

    def __init__(self, folder, *, find_lost=lambda: None, **changed):
        self.hub = make_hub(**changed)
        self.run_dir = RunDir(root=folder)
        self.screen = io.StringIO()
        loaded = load_mapping(make_settings(**changed), name="test")
        self.logged = []
        self.engine = Future()
        self.grace = NotedGrace(25.0, describe_saved=lambda: "")
        self.exported = []
        self.at_export = lambda saved: None
        run = replace(make_run(loaded, self.run_dir, screen=self.screen), grace=self.grace)
        self.reporter = Reporter(run, self.logged.append, num_steps=5)
        self.watch = Watch(
            run,
            HubHere(self.hub),
            reporter=self.reporter,
            writer=EpisodeWriter(self.run_dir),
            export=self._export,
            describe_silence=lambda: "actor 7 has not answered",
            find_lost=find_lost,
        )

    def _export(self, saved):
        self.exported.append((saved.step, self.grace.is_saving))
        self.at_export(saved)
        return f"exported {saved.step}"

    def follow(self, work=lambda: None):
        """Follow while `work` is done, then end the engine."""

        async def whole():
            following = asyncio.ensure_future(follow_to_end(self.watch, self.engine))
            await asyncio.sleep(0)
            work()
            if not self.engine.done():
                self.engine.set_result(None)
            await following

        asyncio.run(whole())

    @property
    def said(self):
        return self.screen.getvalue()


@pytest.fixture
def following(tmp_path):
    return Following(tmp_path)


def train(hub, step=1, loss=0.1):
    for group in ("a", "b"):
        episodes = three(group, [0.0, 1.0, 1.0])
        add(hub, group, *[replace(episode, step=step) for episode in episodes])
    hub.plan(step)
    hub.finish_step(
        step,
        {"train/loss": loss, "train/updates": 1.0, "train/seconds": 1.0, "step/seconds": 2.0},
    )


def test_episodes_and_metrics_are_in_the_run_directory_when_the_engine_ends(following):
    following.follow(lambda: train(following.hub))
    (metrics,) = read_json_lines(following.run_dir.metrics_file)
    written = datetime.fromisoformat(metrics.pop("time"))
    assert abs(written.timestamp() - time.time()) < 60
    assert (metrics["step"], metrics["train/loss"]) == (1, 0.1)
    records = list(read_json_lines(following.run_dir.episodes_file(1, "train")))
    assert [episode_from_record(r).episode_id for r in records][:2] == ["a-0", "a-1"]
    assert following.logged == [metrics]
    assert "step 1/5  reward 0.667" in following.said


def test_a_validation_shares_the_line_of_its_step_and_has_its_own_before_the_first(following):
    def work():
        for step in (0, 1):
            episode = replace(make_episode(0, 1.0), is_validation=True, step=step)
            if step:
                train(following.hub)
            add(following.hub, "v", episode)
            following.hub.finish_validation(step)

    def late_step():
        work()

    following.follow(late_step)
    lines = list(read_json_lines(following.run_dir.metrics_file))
    assert [line["step"] for line in lines] == [0, 1]
    assert all("validation/reward_mean" in line for line in lines)


def test_a_validation_that_ends_behind_its_step_leaves_all_metrics_of_the_step_known(
    following, monkeypatch
):
    monkeypatch.setattr(watch_module, "_INTERVAL_SECONDS", 0.01)
    hub = following.hub

    def end(_saved):
        hub.finish_validation(1)
        following.engine.set_result(None)

    following.at_export = end
    train(hub)
    hub.saved(SavedState(step=1, weights="/somewhere", probes=()))
    add(hub, "v", replace(make_episode(0, 1.0), is_validation=True, step=1))
    asyncio.run(follow_to_end(following.watch, following.engine))
    first, second = read_json_lines(following.run_dir.metrics_file)
    assert (first["step"], second["step"]) == (1, 1) and "reward/mean" not in second
    assert {"train/loss", "validation/reward_mean"} <= following.reporter.metrics.keys()
    viewed = MetricsReader(following.run_dir.root).read()
    assert viewed.steps == [1] and viewed.rows == [first | second]


def test_best_leads_to_the_checkpoint_that_did_best_before_others_are_dropped(following):
    """An export spares what it leads to, so that has to be known by then."""
    seen = []

    def export(saved):
        best = following.run_dir.best_checkpoint()
        seen.append(best and best.name)
        following.run_dir.checkpoint_dir(saved.step).mkdir(parents=True)

    following.at_export = export
    for step, reward in ((1, 1.0), (2, 0.0)):
        episode = replace(make_episode(0, reward), is_validation=True, step=step)
        add(following.hub, "v", episode)
        following.hub.finish_validation(step)
        following.hub.saved(SavedState(step=step, weights="/somewhere", probes=()))
    following.follow()
    assert seen == [None, "step_1"]
    assert following.run_dir.best_checkpoint().name == "step_1"


def test_a_saved_state_is_exported_and_said(following):
    following.follow(
        lambda: following.hub.saved(SavedState(step=3, weights="/somewhere", probes=()))
    )
    assert "exported 3" in following.said


def test_the_end_of_the_grace_waits_for_what_the_engine_saves(following, monkeypatch):
    monkeypatch.setattr(watch_module, "_INTERVAL_SECONDS", 0.01)
    hub, grace, seen = following.hub, following.grace, []

    async def whole():
        work = asyncio.ensure_future(follow_to_end(following.watch, following.engine))
        for phase in ("update", SAVING, "weight sync", SAVING):
            hub.enter(phase, step=1)
            await asyncio.sleep(0.2)
            seen.append(grace.is_saving)
        following.engine.set_exception(BackboneError("the engine died"))
        with pytest.raises(BackboneError):
            await work
        seen.append(grace.is_saving)

    asyncio.run(whole())
    assert seen == [False, True, False, True, False]


def test_the_end_of_the_grace_waits_for_an_export(following):
    state = SavedState(step=3, weights="/somewhere", probes=())
    following.follow(lambda: following.hub.saved(state))
    assert following.exported == [(3, True)]
    assert not following.grace.is_saving


def test_what_the_engine_raises_is_raised(following):
    with pytest.raises(BackboneError, match="the engine died"):
        following.follow(lambda: following.engine.set_exception(BackboneError("the engine died")))


def test_a_reason_to_end_is_raised_though_the_engine_works_on(following):
    async def whole():
        following.hub.fail(BackboneError("too many failed"))
        await follow_to_end(following.watch, following.engine)

    with pytest.raises(BackboneError, match="too many failed"):
        asyncio.run(whole())


def test_a_silent_phase_ends_the_run_with_its_name_and_who_did_not_answer(tmp_path):
    following = Following(tmp_path, trainer_common__phase_timeout_seconds=0.01)
    following.hub.enter("loading the model")

    async def whole():
        await asyncio.sleep(0.02)
        await follow_to_end(following.watch, following.engine)

    with pytest.raises(BackboneError) as caught:
        asyncio.run(whole())
    assert "loading the model: no sign of life" in str(caught.value)
    assert "actor 7 has not answered" in str(caught.value)


class DeafHub:
    """Answers nothing but the methods that are given."""

    def __init__(self, hub, *answered):
        self._hub, self._answered = HubHere(hub), answered

    def __getattr__(self, name):
        return getattr(self._hub, name) if name in self._answered else _Never()


class _Never:
    async def remote(self, *args, **kwargs):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("answered", "is_interrupted"), [((), False), ((), True), (("news",), True)]
)
def test_a_hub_that_never_answers_ends_the_run_as_a_silent_phase_does(
    tmp_path, answered, is_interrupted
):
    following = Following(tmp_path, trainer_common__phase_timeout_seconds=0.05)
    following.watch._hub = DeafHub(following.hub, *answered)
    if is_interrupted:
        following.watch.stop()

    async def whole():
        await follow_to_end(following.watch, following.engine)

    with pytest.raises(BackboneError) as caught:
        asyncio.run(whole())
    assert "starting: no sign of life" in str(caught.value)
    assert "actor 7 has not answered" in str(caught.value)


def test_a_hub_that_falls_silent_is_given_up_by_the_limit_of_the_phase_it_told_last(tmp_path):
    following = Following(tmp_path, trainer_common__phase_timeout_seconds=0.05)
    following.hub.enter("rollout", step=3, total=6)
    add(following.hub, "a", make_episode(0, 1.0))

    async def whole():
        task = asyncio.ensure_future(follow_to_end(following.watch, following.engine))
        await asyncio.sleep(0.02)
        following.watch._hub = DeafHub(following.hub)
        following.watch._deadlines = Deadlines(phase=60.0, rollout=0.05)
        await task

    with pytest.raises(BackboneError, match=r"step 3: rollout: no sign of life"):
        asyncio.run(whole())


@pytest.mark.parametrize(
    ("total", "done", "expected"), [(None, 0, 900.0), (6, 0, 900.0), (6, 1, 160.0)]
)
def test_a_rollout_that_has_begun_may_be_as_silent_as_an_episode_may_last(total, done, expected):
    deadlines = Deadlines(phase=900.0, rollout=160.0)
    phase = Phase(name="rollout", step=1, silent_seconds=0.0, done=done, total=total)
    assert deadlines.seconds(phase) == expected


@pytest.mark.parametrize("total", [6, None])
def test_a_lost_actor_ends_the_run_in_whatever_phase(tmp_path, monkeypatch, total):
    for name in ("_LOOK_SECONDS", "_TELL_SECONDS"):
        monkeypatch.setattr(watch_module, name, 0.0)
    following = Following(tmp_path, find_lost=lambda: "actor 9 is lost")
    following.hub.enter("closing the step", step=1, total=total)
    with pytest.raises(BackboneError, match=r"closing the step: actor 9 is lost; .*--resume"):
        asyncio.run(follow_to_end(following.watch, following.engine))


def test_an_engine_that_notices_a_loss_itself_has_time_to_say_more(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_module, "_LOOK_SECONDS", 0.0)

    def find_lost():
        told = RuntimeError("the update failed on rank 3")
        asyncio.get_running_loop().call_later(0.1, following.engine.set_exception, told)
        return "actor 9 is lost"

    following = Following(tmp_path, find_lost=find_lost)
    following.hub.enter("update", step=1)
    with pytest.raises(RuntimeError, match="the update failed on rank 3"):
        asyncio.run(follow_to_end(following.watch, following.engine))


def test_a_lost_actor_is_named_before_the_failures_that_it_causes(tmp_path):
    following = Following(tmp_path, find_lost=lambda: "the engine is lost")
    following.hub.fail(BackboneError("8 of 8 episodes failed: connection refused"))
    with pytest.raises(BackboneError, match="the engine is lost") as raised:
        asyncio.run(follow_to_end(following.watch, following.engine))
    assert "8 of 8 episodes failed" in str(raised.value.__cause__)


def test_actors_that_an_engine_took_along_at_its_end_are_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_module, "_LOOK_SECONDS", 0.0)

    def find_lost():
        asyncio.get_running_loop().call_soon(following.engine.set_result, None)
        return "actor 9 is lost"

    following = Following(tmp_path, find_lost=find_lost)
    following.hub.enter("rollout", step=1, total=6)
    asyncio.run(follow_to_end(following.watch, following.engine))


def test_the_first_interrupt_asks_the_trainer_to_stop_and_follows_on(following):
    async def whole():
        task = asyncio.ensure_future(follow_to_end(following.watch, following.engine))
        await asyncio.sleep(0)
        task.cancel()
        while not following.hub.is_stop_requested():
            await asyncio.sleep(0.01)
        assert not task.done()
        train(following.hub)
        following.engine.set_result(None)
        await task

    asyncio.run(whole())
    assert [line["step"] for line in read_json_lines(following.run_dir.metrics_file)] == [1]


def test_the_second_interrupt_is_obeyed_at_once(following):
    async def whole():
        task = asyncio.ensure_future(follow_to_end(following.watch, following.engine))
        for _ in range(2):
            await asyncio.sleep(0.01)
            task.cancel()
        await asyncio.wait_for(task, 60)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(whole())


def test_a_run_that_does_not_learn_is_ended_as_on_local(tmp_path):
    following = Following(tmp_path)

    async def whole():
        train(following.hub, loss=float("nan"))
        await follow_to_end(following.watch, following.engine)

    with pytest.raises(BackboneError, match="not a finite number"):
        asyncio.run(whole())


def test_an_episode_on_disk_is_the_episode_that_was_brought(following):
    episode = make_episode(0, 1.0)
    following.follow(lambda: add(following.hub, "a", episode))
    (record,) = read_json_lines(following.run_dir.episodes_file(1, "train"))
    assert record == json.loads(json.dumps(episode_to_record(episode)))


class SlowHub(HubHere):
    """Answers after so many seconds."""

    def __init__(self, hub, seconds):
        super().__init__(hub)
        self._seconds = seconds

    def __getattr__(self, name):
        return _Slow(super().__getattr__(name), self._seconds)


class _Slow:
    def __init__(self, method, seconds):
        self._method, self._seconds = method, seconds

    async def remote(self, *args, **kwargs):
        await asyncio.sleep(self._seconds)
        return await self._method.remote(*args, **kwargs)


@pytest.mark.parametrize(("answer_seconds", "write_seconds"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1)])
def test_a_command_that_was_stopped_for_longer_than_a_deadline_goes_on(
    tmp_path, monkeypatch, answer_seconds, write_seconds
):
    monkeypatch.setattr(watch_module, "_STOPPED_SECONDS", 0.5)
    monkeypatch.setattr(watch_module, "_INTERVAL_SECONDS", 0.05)
    following = Following(tmp_path, trainer_common__phase_timeout_seconds=2.0)
    following.watch._hub = SlowHub(following.hub, answer_seconds)
    following.hub.enter("loading the model")
    flush = following.watch._writer.flush

    async def flush_slowly():
        await asyncio.sleep(write_seconds)
        await flush()

    monkeypatch.setattr(following.watch._writer, "flush", flush_slowly)

    async def whole():
        task = asyncio.ensure_future(follow_to_end(following.watch, following.engine))
        await asyncio.sleep(0.06)
        time.sleep(2.5)  # as a stopped process: nothing of it runs
        await asyncio.sleep(0.15)
        following.engine.set_result(None)
        await task

    asyncio.run(whole())


def test_a_phase_that_stays_silent_after_a_stop_ends_the_run_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_module, "_STOPPED_SECONDS", 0.3)
    monkeypatch.setattr(watch_module, "_INTERVAL_SECONDS", 0.05)
    following = Following(tmp_path, trainer_common__phase_timeout_seconds=0.5)
    following.hub.enter("loading the model")

    async def whole():
        task = asyncio.ensure_future(follow_to_end(following.watch, following.engine))
        await asyncio.sleep(0.06)
        time.sleep(1.0)
        await asyncio.wait_for(task, 60)

    with pytest.raises(BackboneError, match="loading the model: no sign of life"):
        asyncio.run(whole())


class Gone(Exception):
    """In place of what Ray raises for an actor that is no more."""


class LostHub:
    """Answers until it is lost."""

    def __init__(self, hub, *, after):
        self._hub, self._left = HubHere(hub), after

    def __getattr__(self, name):
        self._left -= 1
        return getattr(self._hub, name) if self._left >= 0 else _Lost()


class _Lost:
    async def remote(self, *args, **kwargs):
        raise Gone("the actor died\nits node failed")


@pytest.fixture
def losing(tmp_path, monkeypatch):
    """A run that is followed until its hub is lost."""
    monkeypatch.setattr(watch_module, "_END_SECONDS", 0.05)
    monkeypatch.setattr(watch_module, "_INTERVAL_SECONDS", 0.01)
    following = Following(tmp_path)
    following.watch._lost = (Gone,)
    following.watch._hub = LostHub(following.hub, after=2)
    following.hub.enter("rollout", step=3)
    return following


def test_a_hub_that_is_lost_ends_the_run_and_says_in_which_phase(losing):
    with pytest.raises(BackboneError) as caught:
        asyncio.run(follow_to_end(losing.watch, losing.engine))
    said = str(caught.value)
    assert "step 3: rollout: the hub of the run is lost (Gone: the actor died)" in said
    assert "--resume" in said and "actor 7 has not answered" in said


@pytest.mark.parametrize("is_before", [True, False])
def test_what_the_engine_says_counts_where_it_ends_with_its_hub(losing, is_before):
    async def whole():
        following = asyncio.ensure_future(follow_to_end(losing.watch, losing.engine))
        await asyncio.sleep(0.0 if is_before else 0.05)
        losing.engine.set_exception(BackboneError("WorkerDict is lost"))
        await following

    with pytest.raises(BackboneError, match="WorkerDict is lost"):
        asyncio.run(whole())


def test_a_hub_that_does_not_take_the_first_phase_ends_the_run(tmp_path):
    following = Following(tmp_path, trainer_common__phase_timeout_seconds=0.05)
    following.watch._hub = DeafHub(following.hub)
    with pytest.raises(BackboneError, match="starting: no sign of life"):
        asyncio.run(following.watch.begin("loading the model"))


def test_a_phase_that_the_engine_does_not_tell_of_is_told_to_the_hub(following):
    asyncio.run(following.watch.begin("loading the model"))
    assert following.hub.news().phase.name == "loading the model"


def test_the_commonest_failure_of_a_step_is_said_with_it(following):
    def work():
        failed = replace(
            make_episode(2, 0.0),
            verdict=None,
            failure=Failure(kind="JudgeError", message="no answer", traceback=""),
        )
        add(following.hub, "a", make_episode(0, 0.0), make_episode(1, 1.0), failed)
        following.hub.plan_of_what_is_there(1)
        told = {"train/loss": 0.1, "train/updates": 1.0, "train/seconds": 1.0, "step/seconds": 2.0}
        following.hub.finish_step(1, told)

    following.follow(work)
    assert "failed episodes: the commonest reason (1 times): JudgeError: no answer" in (
        following.said
    )
