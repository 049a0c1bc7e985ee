"""All checks of a configuration, in an order in which each has what it needs.

The model is loaded once, in the end changed by one update, and thrown away. Nothing is written but
into a folder of its own.
"""

import asyncio
import contextlib
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from astuner.backbone.assemble import find_model, make_judging, read_tasks
from astuner.backbone.chats import joining_policy, training_template
from astuner.backbone.contaminated import contamination_of_test, read_test_from_disk
from astuner.backbone.drafted_rubrics import with_rubrics
from astuner.backbone.environments_beside import environments_beside
from astuner.backbone.generated_tasks import reading_from
from astuner.backbone.run import Run
from astuner.backbone.task_signs import with_content
from astuner.backbone.until_ended import until_ended
from astuner.config.generated_sets import generated_sources
from astuner.config.load import LoadedConfig
from astuner.console import RunConsole
from astuner.errors import AstunerError, ConfigError, Quit, TaskReadError
from astuner.examining import data, forecast, judge, limits, machine, template, weights, workflow
from astuner.examining.checking import CheckRunner, Tell
from astuner.examining.finding import DoctorFinding, Remarks, Subject
from astuner.examining.order import ExaminationOrder, made_run
from astuner.examining.rolled_out import asked_server, asked_weights, roll_out
from astuner.inference.template import ChatTemplate
from astuner.pins.install import PINS
from astuner.task_generation.generated_set import TRAIN_FILE
from astuner.task_reader.curriculum import make_order
from astuner.task_reader.mixture import in_turns
from astuner.trajectory.episode import Episode
from astuner.types import Task

NUM_EPISODES = 2
_NEAR_SECONDS = 20.0
"""For comparing questions: those of one template all meet each other."""
_MOST_AT_A_TIME = 16
"""Replies that the engine's speed is measured with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What was found, whole or as far as it went."""

    findings: Sequence[DoctorFinding]
    seconds: float
    ended_by: AstunerError | Quit | None
    """What ended it early; None where nothing did."""

    @property
    def is_wrong(self) -> bool:
        return any(finding.grade == "wrong" for finding in self.findings)


def examine(order: ExaminationOrder, console: RunConsole, *, tell: Tell) -> Examined:
    """Look at everything that is asked for; `tell` gets each finding as it is made.

    Raises ConfigError for settings that no run could have.
    """
    started = time.monotonic()
    loaded = order.load()
    checking = CheckRunner(
        console, seconds=order.check_seconds, tell=tell, subjects=frozenset(order.subjects)
    )
    with made_run(loaded, console, keeps_files=order.keeps_files) as (run, unmade):
        examination = _Examination(order, loaded, run, unmade, checking)
        ended_by = asyncio.run(
            until_ended(examination.run_all, console, notice="what was found so far is shown")
        )
        examination.release()
        checking.close()
    return Examined(
        findings=checking.findings, seconds=time.monotonic() - started, ended_by=ended_by
    )


@dataclass(slots=True)
class _Gathered:
    """What earlier checks found, for later ones."""

    training: Sequence[Task] = ()
    validation: Sequence[Task] = ()
    plan: data.BatchPlan | None = None
    template: ChatTemplate | None = None
    weights: Any = None
    """A TunedModel, a LoadedEngine, or None."""
    fits: bool = False
    """Whether training fits into memory here."""
    episodes: list[Episode] = field(default_factory=list)
    timed: list[Episode] = field(default_factory=list)
    """The same once more, when all that is loaded once had been."""
    sampled_per_second: float | None = None
    trained_per_second: float | None = None


class _Examination:
    def __init__(
        self,
        order: ExaminationOrder,
        loaded: LoadedConfig,
        run: Run,
        unmade: Sequence[DoctorFinding],
        runner: CheckRunner,
    ) -> None:
        self._order, self._loaded, self._run, self._runner = order, loaded, run, runner
        self._unmade = unmade
        self._unmade_subjects = {finding.subject for finding in unmade}
        self._gathered = _Gathered()
        self._stop = threading.Event()

    @property
    def _settings(self) -> Any:
        return self._run.settings

    def release(self) -> None:
        """Let go of the weights."""
        self._stop.set()
        self._gathered.weights = None

    async def run_all(self) -> None:
        try:
            await self._run_all()
        finally:
            self._stop.set()

    async def _run_all(self) -> None:
        does = self._order.does
        await self._runner.prepare(_import_libraries)
        if does("machine"):
            await self._machine()
        self._runner.add(*self._unmade)
        async with contextlib.AsyncExitStack() as stack:
            await self._with_surroundings(stack)
            if does("data"):
                await self._data()
            if does("model"):
                await self._template()
            if does("model") and not self._order.is_quick:
                await self._load()
            if does("workflow") and not self._order.is_quick:
                await self._workflow()
            if does("model"):
                await self._tools()
            if does("judge"):
                await self._judge()
            if self._gathered.weights is not None and does("model"):
                await self._weights()
            if does("forecast") and not self._order.is_quick:
                await self._forecast()

    # --- what stands around

    async def _machine(self) -> None:
        settings, check = self._settings, self._check
        await check("machine", "versions", lambda: machine.look_at_packages(settings))
        await check("machine", "devices", lambda: machine.look_at_devices(settings))
        folder = self._loaded.experiment_dir
        await check("machine", "disk", lambda: machine.look_at_folder(folder))
        await check("machine", "open files", lambda: machine.look_at_files(settings))
        await check(
            "machine", "sandbox", lambda: machine.look_at_sandbox(settings, self._run.judge)
        )
        conf_file = self._loaded.conf_file
        await check("machine", "clock", lambda: machine.look_at_clock(conf_file))

    async def _with_surroundings(self, stack: contextlib.AsyncExitStack) -> None:
        """Rubrics and environment servers, as a run has them."""

        async def rubrics() -> list[DoctorFinding]:
            grader = self._settings.task_judge
            has_own = grader.rubrics.file or grader.rubrics.inline
            if grader.judge_type == "rubrics_auto_grader" and not has_own:
                self._run = replace(self._run, judge=None)
                self._unmade_subjects.add("judge")
                return [
                    Remarks("judge").unchecked(
                        "rubrics", "they are drafted by a model when the run starts"
                    )
                ]
            self._run = await with_rubrics(self._run)
            return []

        async def environments() -> list[DoctorFinding]:
            try:
                self._run = await stack.enter_async_context(environments_beside(self._run))
            except ConfigError as error:
                return [Remarks("workflow").wrong("environment", str(error))]
            return []

        if self._order.does("judge") or self._order.does("workflow"):
            await self._runner.run("judge", "rubrics", rubrics)
        if self._order.does("data"):
            # In this task: what is entered here is left here.
            self._runner.add(*await environments())

    # --- tasks

    async def _data(self) -> None:
        if not await self._runner.run("data", "reading", self._read_tasks):
            return
        known, check = self._gathered, self._check
        training, validation = known.training, known.validation
        if not training:
            return
        needed = judge.needed_field(self._settings)
        await check("data", "amount", self._look_at_amount)
        training = with_content(self._settings.task_reader, training)
        validation = with_content(self._settings.task_reader, validation)
        if not training:
            return
        await check("data", "duplicates", lambda: data.look_at_repeats(training, validation))
        await check("data", "near duplicates", self._look_at_near_repeats)
        await check("data", "test", self._look_at_test)
        await check("data", "content", lambda: data.look_at_content(training, needed_field=needed))
        await check("data", "lengths", self._look_at_lengths)
        await check("data", "languages", lambda: data.look_at_scripts(training, validation))

    async def _read_tasks(self) -> list[DoctorFinding]:
        say = Remarks("data")
        sections = generated_sources(self._settings.task_reader)
        folders = {
            name: self._loaded.generated_set_dir(name, section)
            for name, section in sections.items()
        }
        if unmade := [str(f) for f in folders.values() if not (f / TRAIN_FILE).is_file()]:
            return [
                say.unchecked(
                    "reading",
                    f"the tasks of {', '.join(unmade)} are not made yet; make them by "
                    f"`astuner generate --conf {self._order.conf_file}`",
                )
            ]
        if folders:
            self._run = reading_from(self._run, folders)
        whole = self._settings.data.model_copy(update={"filter_overlong_prompts": False})
        run = replace(self._run, settings=self._settings.model_copy(update={"data": whole}))
        try:
            training, validation = await self._runner.in_thread(lambda: read_tasks(run))
        except (ConfigError, TaskReadError) as error:
            return [say.wrong("reading", str(error))]
        self._gathered.training = in_turns(training)
        self._gathered.validation = validation[: self._settings.data.max_validation_tasks]
        if not training:
            return [say.wrong("reading", "there are no training tasks", "task_reader")]
        return []

    def _look_at_amount(self) -> list[DoctorFinding]:
        known, settings = self._gathered, self._settings
        try:
            order = make_order(settings, known.training)
        except ConfigError as error:
            return [Remarks("data").wrong("amount", str(error))]
        common = settings.trainer_common
        steps = common.total_epochs * order.batches_per_epoch
        known.plan = data.BatchPlan(
            batch_size=settings.data.train_batch_size,
            num_repeat=settings.rollout.num_repeat,
            batches_per_epoch=order.batches_per_epoch,
            num_steps=min(steps, common.total_training_steps or steps),
        )
        return data.look_at_amount(len(known.training), len(known.validation), known.plan)

    def _look_at_near_repeats(self) -> list[DoctorFinding]:
        deadline = time.monotonic() + min(_NEAR_SECONDS, self._runner.seconds / 4)
        reader, known = self._settings.task_reader, self._gathered
        return data.look_at_near_repeats(
            with_content(reader, known.training),
            with_content(reader, known.validation),
            deadline=deadline,
        )

    def _look_at_test(self) -> list[DoctorFinding]:
        known, run = self._gathered, self._run
        try:
            test = read_test_from_disk(run)
        except (ConfigError, TaskReadError) as error:
            return [Remarks("data").wrong("test", str(error))]
        shared = contamination_of_test(run, test, known.training, known.validation)
        return data.look_at_test(len(test), shared)

    def _look_at_lengths(self) -> list[DoctorFinding]:
        if self._is_remote:
            return []
        from astuner.models.source import load_tokenizer

        tokenizer: Any = load_tokenizer(find_model(self._run))
        return data.look_at_lengths(
            self._gathered.training,
            self._settings,
            lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
        )

    # --- the model

    @property
    def _is_remote(self) -> bool:
        """Whether a server answers, whose model is not known here."""
        return self._settings.backbone == "debug" and bool(self._settings.debug.openai_base_url)

    @property
    def _is_elsewhere(self) -> bool:
        """Whether a cluster loads and trains the model, and none is given to stand in for it."""
        return self._settings.backbone in PINS and self._order.model is None

    async def _template(self) -> None:
        if self._is_remote:
            return
        if not await self._check("model", "template", self._load_template):
            return
        known, run = self._gathered, self._run
        if known.template is not None:
            written = training_template(run, known.template)
            joining = joining_policy(run)
            await self._runner.run(
                "model", "history", lambda: template.look_at_turns(written, joining)
            )
            await self._check("model", "end of turn", lambda: template.look_at_ends(written))
        source = find_model(run)
        await self._check("model", "context", lambda: limits.look_at_context(run, source))
        await self._check(
            "model", "adapter", lambda: limits.look_at_adapter(run.settings.model.lora)
        )
        if not self._is_elsewhere:
            await self._check("model", "memory", self._look_at_memory)

    def _load_template(self) -> list[DoctorFinding]:
        from astuner.models.end_ids import read_end_ids
        from astuner.models.source import load_tokenizer

        try:
            source = find_model(self._run)
            tokenizer = load_tokenizer(source)
            self._gathered.template = ChatTemplate(tokenizer, extra_stop_ids=read_end_ids(source))
        except (AstunerError, OSError) as error:
            return [Remarks("model").wrong("template", str(error), "model.path")]
        return []

    def _look_at_memory(self) -> list[DoctorFinding]:
        try:
            findings = limits.look_at_memory(self._run, find_model(self._run))
        except ConfigError as error:
            return [Remarks("model").wrong("family", str(error))]
        self._gathered.fits = all(finding.grade != "wrong" for finding in findings)
        return findings

    async def _tools(self) -> None:
        """Where episodes ran and none offered a tool, there is nothing to look at."""
        known, run = self._gathered, self._run
        calls = [call for episode in known.episodes for call in episode.calls]
        if known.template is None or (calls and not any(call.tools for call in calls)):
            return
        written, joining = training_template(run, known.template), joining_policy(run)
        await self._runner.run(
            "model", "tool calls", lambda: template.look_at_tools(written, joining, run.settings)
        )

    async def _load(self) -> None:
        say, run = Remarks("model"), self._run
        if self._is_remote or self._gathered.template is None:
            return
        if self._is_elsewhere:
            name = self._settings.backbone
            self._runner.add(
                say.unchecked(
                    "weights",
                    f"the backbone {name} loads them on its cluster; give a small model of the "
                    "family by --model to see the workflow and the update",
                )
            )
            return
        if not self._gathered.fits:
            self._runner.add(
                say.unchecked("weights", "the run does not fit (memory), so nothing is loaded")
            )
            return
        trains = self._settings.backbone != "debug"

        async def load() -> list[DoctorFinding]:
            try:
                self._gathered.weights = await self._runner.in_thread(
                    lambda: weights.load_weights(run, trains=trains)
                )
            except AstunerError as error:
                return [say.wrong("loading", str(error))]
            return []

        await self._runner.run("model", "loading", load)

    async def _weights(self) -> None:
        """Compare sampling with training, then change the weights."""
        if not self._gathered.training:
            return
        if hasattr(self._gathered.weights, "trainer"):
            await self._runner.run("model", "update", self._try_update, num_deadlines=2)

    async def _try_update(self) -> list[DoctorFinding]:
        loaded, settings = self._gathered.weights, self._settings
        model, in_thread = loaded.policy.model, self._runner.in_thread
        dtype = str(model.dtype)
        samples = await self._sample()
        gap = weights.mean_gap(*await in_thread(lambda: weights.score_samples(model, samples)))
        limit = settings.trainer_common.detectors.max_logprob_gap
        self._runner.add(weights.judge_agreement(gap, dtype=dtype, limit=limit))
        rise, seconds = await in_thread(lambda: weights.make_update(loaded, samples, self._stop))
        loaded.engine.weights_updated()
        again = await self._sample()
        gap_after = weights.mean_gap(*await in_thread(lambda: weights.score_samples(model, again)))
        tried = weights.TriedUpdate(
            gap_before=gap,
            gap_after=gap_after,
            rise=rise,
            learning_rate=weights.with_visible_step(settings).trainer_common.optim.lr,
            seconds=seconds,
            num_tokens=sum(len(sample.ids) for sample in samples),
        )
        self._gathered.trained_per_second = tried.num_tokens / max(seconds, 1e-9)
        is_adapter = settings.model.lora.rank is not None
        return weights.judge_update(tried, is_adapter=is_adapter, dtype=dtype)

    async def _sample(self) -> list[Any]:
        """As many replies at a time as tell of the engine's speed."""
        loaded, settings = self._gathered.weights, self._settings
        plan = self._gathered.plan
        wanted = plan.batch_size * plan.num_repeat if plan else weights.NUM_REPLIES
        num_replies = min(_MOST_AT_A_TIME, settings.rollout.max_num_seqs, wanted)
        started = time.monotonic()
        samples = await weights.sample_replies(
            loaded.engine,
            training_template(self._run, loaded.template),
            loaded.attendance,
            self._gathered.training,
            temperature=settings.rollout.temperature,
            num_replies=num_replies,
        )
        num_sampled = sum(sum(sample.mask) for sample in samples)
        self._gathered.sampled_per_second = num_sampled / max(time.monotonic() - started, 1e-9)
        return samples

    # --- workflow and judge

    async def _workflow(self) -> None:
        say, known = Remarks("workflow"), self._gathered
        if "workflow" in self._unmade_subjects:
            return
        if not known.training:
            self._runner.add(say.unchecked("episodes", "there are no tasks to run (data)"))
            return
        if not self._is_remote and known.weights is None:
            self._runner.add(say.unchecked("episodes", "there is no model to ask (model)"))
            return
        model = (
            asked_server(self._run) if self._is_remote else asked_weights(self._run, known.weights)
        )
        tasks = known.training[:NUM_EPISODES]
        seconds = min(self._settings.rollout.episode_timeout_seconds, self._runner.seconds)

        async def first() -> list[DoctorFinding]:
            known.episodes = await roll_out(
                self._run, model, tasks, seconds=seconds, is_written=True
            )
            return workflow.look_at_episodes(known.episodes)

        async def second() -> list[DoctorFinding]:
            known.timed = await roll_out(self._run, model, tasks, seconds=seconds, is_written=False)
            is_exact = known.weights.policy.device.type == "cpu"
            return [
                *workflow.look_at_repetition(known.episodes, known.timed, is_exact=is_exact),
                *workflow.look_at_times(known.timed),
            ]

        await self._runner.run("workflow", "episodes", first, num_deadlines=1.5)
        if not any(episode.failure is None for episode in known.episodes):
            return
        if known.weights is not None:
            await self._check(
                "model",
                "end of turn",
                lambda: workflow.look_at_ends_of_replies(
                    known.episodes, known.weights.template.stop_ids
                ),
            )
            await self._runner.run("workflow", "determinism", second, num_deadlines=1.5)

    async def _judge(self) -> None:
        say, known = Remarks("judge"), self._gathered
        if "judge" in self._unmade_subjects:
            return
        if not known.training:
            self._runner.add(say.unchecked("verdicts", "there are no tasks to ask about (data)"))
            return
        own = [e for e in known.episodes if e.verdict and e.verdict.source == "workflow"]
        has_judge = self._run.judge is not None or self._run.own_judges
        if not has_judge or own:
            who = "the workflow gives the reward, and no judge is asked"
            self._runner.add(say.fine("verdicts", who))
            return
        asked = judge.AskedJudge()
        metadata = next((dict(e.metadata) for e in known.episodes if e.metadata), {})

        async def ask() -> list[DoctorFinding]:
            await judge.ask_judge(
                make_judging(self._run),
                known.training,
                asked,
                metadata=metadata,
                name=judge.reference_field(self._settings),
            )
            return judge.judge_the_judge(asked, is_real=bool(metadata))

        if not await self._runner.run("judge", "verdicts", ask) and asked.seconds:
            self._runner.add(*judge.judge_the_judge(asked, is_real=bool(metadata)))

    # --- what is to come

    async def _forecast(self) -> None:
        say, known = Remarks("forecast"), self._gathered
        means = forecast.EpisodeMeans.of(known.timed or known.episodes)
        if known.plan is None or means is None or known.sampled_per_second is None:
            self._runner.add(say.unchecked("the run", "no episode and no update was measured"))
            return
        speeds = forecast.Speeds(
            sampled_per_second=known.sampled_per_second,
            trained_per_second=known.trained_per_second,
        )
        plan = self._run_plan(known.plan)
        found = forecast.forecast(plan, means, speeds)
        self._runner.add(*forecast.describe(found, plan, speeds, num_measured=len(known.episodes)))
        if hasattr(known.weights, "trainer"):
            await self._check("forecast", "disk", self._look_at_disk)

    def _run_plan(self, plan: data.BatchPlan) -> forecast.RunPlan:
        settings, num_validation = self._settings, len(self._gathered.validation)
        common = settings.trainer_common
        validations = -(-plan.num_steps // common.test_freq) + common.val_before_train
        return forecast.RunPlan(
            num_steps=plan.num_steps,
            batch_size=plan.batch_size,
            num_repeat=plan.num_repeat,
            max_parallel=settings.rollout.max_env_worker,
            num_validations=validations if num_validation else 0,
            num_validation_episodes=num_validation * settings.rollout.val_kwargs.num_repeat,
            has_reference=common.use_kl_loss,
        )

    def _look_at_disk(self) -> list[DoctorFinding]:
        from astuner.backbone.local.disk import DiskFacts, check_fit, disk_plan
        from astuner.models.checkpoint import num_state_bytes, num_weights_bytes

        known, settings = self._gathered, self._settings
        assert known.plan is not None
        model, common = known.weights.policy.model, settings.trainer_common
        there = _existing(self._loaded.experiment_dir)
        written = sum(f.stat().st_size for f in self._run.run_dir.episodes_dir.glob("*.jsonl"))
        per_episode = written // max(1, len(known.episodes))
        facts = DiskFacts(
            weights_bytes=num_weights_bytes(model, is_merged_too=common.save_merged),
            state_bytes=num_state_bytes(model),
            num_checkpoints=0,
            num_states=0,
            records_bytes=0,
            step_bytes=per_episode * known.plan.batch_size * known.plan.num_repeat,
            is_measured=True,
            free_bytes=_free(there),
        )
        plan = disk_plan(
            settings, first_step=0, num_steps=known.plan.num_steps, has_best=bool(known.validation)
        )
        try:
            return forecast.describe_disk(check_fit(plan, facts, folder=there))
        except AstunerError as error:
            return [forecast.disk_is_too_small(str(error))]

    async def _check(self, subject: Subject, check: str, look: Any) -> bool:
        """A check that computes, in a thread."""

        async def work() -> Sequence[DoctorFinding]:
            return await self._runner.in_thread(look)

        return await self._runner.run(subject, check, work)


def _import_libraries() -> None:
    """Once, so that no check is charged with it."""
    import torch
    import transformers

    _ = torch, transformers


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
