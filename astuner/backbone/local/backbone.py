"""The local backbone: what stands around its loop (`tuning.py`) for as long as that runs.

Light, so that agents' processes get ready while this one imports what the model needs.
"""

from astuner.backbone.assemble import make_gateway
from astuner.backbone.environments import open_environments
from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.local.agents.processes import open_agent_processes
from astuner.backbone.loggers import metrics_log
from astuner.backbone.run import Run, RunResult


class LocalBackbone:
    """Tunes a model on this machine."""

    async def run(self, run: Run) -> RunResult:
        max_records_mb = run.settings.trainer_common.max_records_mb
        with (
            metrics_log(run) as log,
            EpisodeWriter(run.run_dir, max_records_mb=max_records_mb) as writer,
        ):
            async with (
                open_agent_processes(run) as processes,
                make_gateway(run) as gateway,
                open_environments(run) as environments,
            ):
                from astuner.backbone.local.tuning import tune

                return await tune(run, log, writer, gateway, environments, processes)
