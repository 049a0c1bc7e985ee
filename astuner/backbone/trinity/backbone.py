"""The backbone `trinity`: starts Trinity-RFT's explorer and trainer on a Ray cluster and follows
them to their end."""

# Trinity-RFT and Ray are in an environment of their own:
# pyright: reportMissingImports=false

import importlib.util
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import ray
from omegaconf import OmegaConf
from trinity.cli.launcher import MODE_MAP, StageStatus
from trinity.common.config import Config

from astuner.backbone.assemble import read_tasks
from astuner.backbone.cluster.hub import SavedState
from astuner.backbone.cluster.remote import HUB_VARIABLE, hub_name, start_hub
from astuner.backbone.cluster.watch import Watch, follow_to_end
from astuner.backbone.cluster.worker_run import WorkerRun
from astuner.backbone.interrupt import interrupt_on_ctrl_c
from astuner.backbone.loggers import metrics_log
from astuner.backbone.run import Run, RunResult
from astuner.backbone.trinity.config import Place, trinity_settings
from astuner.backbone.trinity.export import export_saved
from astuner.backbone.trinity.monitor import weights_folder
from astuner.errors import BackboneError, ConfigError
from astuner.task_reader.local_path import find_path
from astuner.task_reader.order import TaskOrder
from astuner.types import Task

_NUM_LOG_LINES = 20


class TrinityBackbone:
    """Tunes a model with Trinity-RFT on a cluster."""

    async def run(self, run: Run) -> RunResult:
        training, validation = read_tasks(run)
        validation = validation[: run.settings.data.max_validation_tasks]
        place = find_place(run, training, validation)
        start = _go_on(run, place) if run.is_resumed else 0
        worker_run = WorkerRun.of(run)
        name = hub_name(worker_run)
        variables = {HUB_VARIABLE: f"{name}@{place.namespace}", **_variables(place)}
        with metrics_log(run) as log, _cluster(place, variables) as cluster:
            config = make_config(run, place)
            tasks = {"train": training, "validation": validation}
            hub = start_hub(name, worker_run, tasks, namespace=place.namespace)
            export = partial(
                export_saved,
                run_dir=run.run_dir,
                temperature=run.settings.rollout.temperature,
                keep=run.settings.trainer_common.keep_checkpoints,
            )
            watch = Watch(
                run,
                hub,
                log=log,
                num_steps=place.num_steps,
                export=export,
                describe_silence=cluster,
                first_step=start,
            )
            await hub.enter.remote("loading the model and its engines")
            notice = "Trinity finishes its step and saves first"
            with interrupt_on_ctrl_c(run.console, notice=notice) as interrupt:
                await follow_to_end(watch, _start(config))
            if not interrupt.is_signalled and watch.last_step < place.num_steps:
                raise BackboneError(_early_end(watch.last_step, place))
            if watch.last_step > start and not run.run_dir.checkpoint_dir(watch.last_step).exists():
                run.console.say(export(_last_saved(watch.last_step, place)))
        run.console.say(f"run directory  {run.run_dir.root}")
        return RunResult(
            run_dir=run.run_dir.root,
            checkpoint=run.run_dir.latest_checkpoint(),
            metrics=watch.metrics,
            is_interrupted=interrupt.is_signalled,
        )


def find_place(run: Run, training: list[Task], validation: list[Task]) -> Place:
    """Raises ConfigError where the model is not named, or a batch is larger than the tasks."""
    settings = run.settings
    if settings.model.path is None:
        raise ConfigError("model.path is not set; give a hub name or a folder")
    order = TaskOrder(
        len(training),
        batch_size=settings.data.train_batch_size,
        seed=settings.trainer_common.seed,
    )
    steps = settings.trainer_common.total_epochs * order.batches_per_epoch
    most = settings.trainer_common.total_training_steps
    name = (run.run_dir.root.parent.name, run.run_dir.root.name)
    return Place(
        model=str(find_path(settings.model.path, run.search_dirs) or settings.model.path),
        checkpoint_dir=Path(settings.trainer_common.checkpoint_base_dir).absolute().joinpath(*name),
        namespace="astuner-" + "-".join(name),
        num_steps=steps if most is None else min(steps, most),
        num_validation_tasks=len(validation),
        is_resumed=run.is_resumed,
        has_flash_attention=_is_installed("flash_attn.flash_attn_interface"),
    )


def make_config(run: Run, place: Place) -> Config:
    """Trinity's whole configuration for the run, checked by Trinity.

    Raises ConfigError for settings that contradict each other, and for what Trinity refuses.
    """
    settings = trinity_settings(
        run.settings, place, own=run.config.get("trinity") or {}, explicit=run.explicit_keys
    )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), settings)
        config = OmegaConf.to_object(merged)
        assert isinstance(config, Config)
        return config.check_and_update()
    except (ValueError, AssertionError, ImportError) as error:
        raise ConfigError(f"Trinity refuses the configuration: {error}") from error


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _start(config: Config) -> Future[None]:
    """Run Trinity in a thread of its own, which dies with this process."""
    done: Future[None] = Future()

    def work() -> None:
        try:
            status: StageStatus = MODE_MAP[config.mode](config)
            if status.error is not None:
                raise BackboneError(
                    f"Trinity failed in mode {config.mode}: {status.error.type_name}: "
                    f"{status.error.message}"
                )
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=work, name="trinity", daemon=True).start()
    return done


def _go_on(run: Run, place: Place) -> int:
    """The step of Trinity's newest checkpoint, with everything behind it put aside.

    The explorer may have been ahead of the trainer; it goes on from where that was saved.
    """
    newest = place.checkpoint_dir / "latest_checkpointed_iteration.txt"
    if not newest.is_file():
        raise BackboneError(
            f"{newest} is not there, so Trinity has no state to go on from; start a new run from "
            f"the weights in {run.run_dir.latest_checkpoint()}"
        )
    step = int(newest.read_text())
    run.run_dir.set_aside(after_step=step, is_logged=True)
    state = {"latest_iteration": step, "taskset_states": [{"current_index": step}]}
    (place.checkpoint_dir / "explorer_meta.json").write_text(json.dumps(state))
    return step


def _last_saved(step: int, place: Place) -> SavedState:
    """Trinity saves at its end in any case, and tells nobody."""
    return SavedState(step=step, weights=weights_folder(str(place.checkpoint_dir), step), probes=())


def _early_end(last_step: int, place: Place) -> str:
    """Trinity logs errors and ends as if nothing had been."""
    logs = sorted((place.checkpoint_dir / "log").glob("*.log"))
    errors = [text for log in logs if (text := _last_error(log))]
    return (
        f"Trinity ended after step {last_step} of {place.num_steps}. "
        + ("\n".join(errors) if errors else "Its logs tell no error.")
        + f"\nAll of its logs: {place.checkpoint_dir / 'log'}"
    )


def _last_error(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    marks = [number for number, text in enumerate(lines) if text.startswith("ERROR")]
    if not marks:
        return ""
    return "\n".join([f"{log.name}:", *lines[marks[-1] :][-_NUM_LOG_LINES:]])


def _variables(place: Place) -> dict[str, str]:
    """What every process of the run must have in its environment, beside the hub's name."""
    kept = ("VERL_", "VLLM_", "HF_", "TRINITY_")
    return {
        "TRINITY_LOG_DIR": str(place.checkpoint_dir / "log"),
        **{key: value for key, value in os.environ.items() if key.startswith(kept)},
    }


@contextmanager
def _cluster(place: Place, variables: Mapping[str, str]) -> Iterator[Callable[[], str]]:
    """A Ray of its own on this machine; gives what tells who is silent."""
    ray.init(
        address="local",
        num_cpus=16,
        num_gpus=2,
        include_dashboard=False,
        namespace=place.namespace,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": dict(variables)},
    )
    try:
        yield lambda: f"The logs are in {place.checkpoint_dir / 'log'}"
    finally:
        ray.shutdown()
