"""The debug backbone: a few rollouts in this process, no training, no Ray.

Prints each episode's conversation, reward and verdict. Workflows run in the main thread's event
loop, so a breakpoint inside one stops there. The model is loaded from model.path, or a server
behind debug.openai_base_url answers and no weights are needed.
"""

import asyncio

from astuner.backbone.asked_model import AskedModel, load_asked_model, model_behind
from astuner.backbone.assemble import lock_supervised_for, make_gateway, make_pool, read_tasks
from astuner.backbone.environments import open_environments
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.interrupt import interrupted_by_signals
from astuner.backbone.run import Run, RunResult
from astuner.backbone.run_events import RunEvents
from astuner.console import RunConsole
from astuner.errors import ConfigError
from astuner.llm.server import LlmServer
from astuner.logview.terminal.episode import episode_sheet
from astuner.rollout.refused import check_answered
from astuner.task_reader.mixture import in_turns
from astuner.trajectory.episode import Episode

_TIMEOUT_SECONDS = 24 * 3600.0
"""In place of rollout.episode_timeout_seconds: a person may stand at a breakpoint for long."""


class DebugBackbone:
    """Rolls out the first tasks and shows what happened."""

    async def run(self, run: Run) -> RunResult:
        debug, num_repeat = run.settings.debug, run.settings.rollout.num_repeat
        training, _ = read_tasks(run)
        tasks = in_turns(training)[: debug.debug_first_n_tasks]
        events = RunEvents(run.run_dir)
        events.planned(num_steps=None, num_tasks=len(tasks), num_validation_tasks=0)
        episodes: list[Episode] = []
        showing = _Showing(run.console)

        def show(episode: Episode) -> None:
            episodes.append(episode)
            writer.write(episode)
            showing.show(episode)

        with (
            EpisodeWriter(run.run_dir) as writer,
            interrupted_by_signals(
                run.console, notice="no further episode is shown", grace=run.grace
            ) as interrupt,
        ):
            try:
                model = _asked_model(run)
                async with (
                    make_gateway(run) as gateway,
                    open_environments(run) as environments,
                    model.serving(),
                ):
                    pool = make_pool(
                        run,
                        model.make_chat,
                        gateway,
                        environments,
                        make_reference_chat=model.make_reference_chat,
                        max_parallel=debug.debug_max_parallel,
                        timeout_seconds=_TIMEOUT_SECONDS,
                    )
                    with lock_supervised_for(run, log_file=run.run_dir.log_file):
                        await pool.run(
                            tasks,
                            num_repeat=num_repeat,
                            step=1,
                            is_validation=False,
                            on_episode=show,
                        )
            except asyncio.CancelledError:
                if not interrupt.is_requested:
                    raise
        metrics = _metrics(run, episodes)
        if not interrupt.is_requested:
            check_answered(episodes, where="debug")
        return RunResult(
            run_dir=run.run_dir.root,
            metrics=metrics,
            exit_code=interrupt.exit_code,
        )


def _metrics(run: Run, episodes: list[Episode]) -> dict[str, float | None]:
    verdicts = [episode.verdict for episode in episodes if episode.verdict]
    mean = sum(verdict.reward for verdict in verdicts) / len(verdicts) if verdicts else None
    reward = "no reward" if mean is None else f"reward mean {mean:.3f}"
    num_failed = len(episodes) - len(verdicts)
    run.console.say(f"{len(episodes)} episodes, {num_failed} failed, {reward}")
    run.console.say(f"run directory  {run.run_dir.root}")
    return {
        "reward/mean": mean,
        "rollout/episodes": len(episodes),
        "rollout/failed_episodes": num_failed,
        "rollout/refused_calls": sum(episode.num_refused_calls for episode in episodes),
        "rollout/empty_replies": sum(episode.num_empty_replies for episode in episodes),
    }


def _asked_model(run: Run) -> AskedModel:
    debug = run.settings.debug
    if debug.openai_base_url is None:
        return load_asked_model(run)
    model_name = debug.openai_model or run.settings.model.path
    if model_name is None:
        raise ConfigError("debug.openai_model: no model is named; set it, or model.path")
    client = LlmServer.read(debug.openai_base_url, debug.openai_api_key_env).open_client()
    return model_behind(run, client, model_name=model_name, setting="debug.openai_base_url")


class _Showing:
    """Shows episodes as they end, and the traceback of a failure that many have only once."""

    def __init__(self, console: RunConsole) -> None:
        self._console = console
        self._first_failures: dict[str, str] = {}
        """Message of a failure -> the episode whose traceback was shown."""

    def show(self, episode: Episode) -> None:
        first = None
        if episode.failure is not None:
            first = self._first_failures.setdefault(episode.failure.message, episode.episode_id)
        sheet = episode_sheet(episode, traceback_in=None if first == episode.episode_id else first)
        self._console.show(sheet, sheet.plain)
