"""Episodes of the run's own workflow and judge, on a model that is loaded already or elsewhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from astuner.backbone.asked_model import AskedModel, model_behind
from astuner.backbone.assemble import lock_supervised_for, make_gateway, make_pool
from astuner.backbone.chats import make_token_chat
from astuner.backbone.environments import open_environments
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.run import Run
from astuner.llm.server import LlmServer
from astuner.trajectory.episode import Episode
from astuner.types import Task

if TYPE_CHECKING:
    from astuner.backbone.local.serve import LoadedEngine
    from astuner.backbone.local.tuned_model import TunedModel


def asked_weights(run: Run, loaded: "TunedModel | LoadedEngine") -> AskedModel:
    """The loaded model, asked as in training; it answers agents that are not trained too."""
    engine, template = loaded.engine, loaded.template
    return AskedModel(
        make_chat=make_token_chat(run, engine, template),
        make_reference_chat=make_token_chat(run, engine, template, is_trained=False),
        serving=engine.serving,
        expect_callers=loaded.attendance.expect,
    )


def asked_server(run: Run) -> AskedModel:
    """The one behind debug.openai_base_url."""
    debug = run.settings.debug
    assert debug.openai_base_url is not None
    client = LlmServer.read(debug.openai_base_url, debug.openai_api_key_env).open_client()
    name = debug.openai_model or run.settings.model.path or ""
    return model_behind(run, client, model_name=name, setting="debug.openai_base_url")


async def roll_out(
    run: Run, model: AskedModel, tasks: Sequence[Task], *, seconds: float, is_written: bool
) -> list[Episode]:
    """One episode of each task, in order, each for at most `seconds`; failed ones among them.

    The same names each time, so that the same random numbers are drawn.
    """
    episodes: list[Episode] = []

    def keep(episode: Episode) -> None:
        episodes.append(episode)
        if is_written:
            writer.write(episode)

    with EpisodeWriter(run.run_dir) as writer:
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
                max_parallel=len(tasks),
                timeout_seconds=seconds,
                expect_callers=model.expect_callers,
                max_failed_fraction=1.0,
            )
            with lock_supervised_for(run, log_file=None):
                await pool.run(tasks, num_repeat=1, step=1, is_validation=False, on_episode=keep)
        await writer.flush()
    order = {task.task_id: index for index, task in enumerate(tasks)}
    return sorted(episodes, key=lambda episode: order.get(episode.task.task_id, 0))
