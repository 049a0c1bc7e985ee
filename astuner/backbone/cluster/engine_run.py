"""An engine at work under the command: its own state of a run, and the thread that waits for it."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from astuner.backbone.cluster.ray_own_head import CARDS_VARIABLE
from astuner.backbone.run import Run
from astuner.config.schema import Settings
from astuner.errors import BackboneError, ConfigError

_END_SECONDS = 20.0


def engine_state_dir(run: Run) -> Path:
    """Where the engine keeps its own state of this run; all nodes must see it.

    Where neither it nor the folder of the runs was named, that is the folder of the start; a run
    that began there goes on there.
    """
    own, name = run.run_dir.root, run.settings.trainer_common.checkpoint_base_dir
    place = Path(own.parent.name, own.name)
    here = run.home / Path("saved_checkpoints" if name == "auto" else name).expanduser()
    is_beside_runs = name == "auto" and run.settings.experiment_dir != "auto"
    if is_beside_runs and not (here / place).is_dir():
        return own.parent.parent / "saved_checkpoints" / place
    return here / place


def with_num_gpus(settings: Settings) -> Settings:
    """The same with `n_gpus_per_node` as a number.

    Raises ConfigError where it is left to this machine, and this machine has no GPU.
    """
    common = settings.trainer_common
    if common.n_gpus_per_node is not None:
        return settings
    import torch

    num_gpus = torch.cuda.device_count()
    if not num_gpus:
        raise ConfigError(
            "trainer_common.n_gpus_per_node is null, which means all GPUs of this machine, but "
            "torch sees none here; say how many each machine of the cluster has, for example "
            "astuner.trainer_common.n_gpus_per_node=8, or train with --backbone=local"
        )
    changed = common.model_copy(update={"n_gpus_per_node": num_gpus})
    return settings.model_copy(update={"trainer_common": changed})


def first_card() -> str:
    """The GPU of a run that has one: the first that CUDA_VISIBLE_DEVICES shows of this machine.

    Raises ConfigError where it hides all, or names one otherwise than by its number.
    """
    shown = os.environ.get(CARDS_VARIABLE, "0")
    first = shown.partition(",")[0].strip()
    if first in ("", "-1", "NoDevFiles"):
        raise ConfigError(
            f"{CARDS_VARIABLE}={shown!r} hides every GPU of this machine from the run; unset it, "
            f"or name one: {CARDS_VARIABLE}=0"
        )
    if not first.isdecimal():
        raise ConfigError(
            f"{CARDS_VARIABLE}={shown!r}: vLLM takes the GPU that it shares with the trainer by "
            f"its number only, as `nvidia-smi -L` lists it; write {CARDS_VARIABLE}=0"
        )
    return first


def go_on(run: Run, *, engine: str) -> int:
    """The step of the engine's newest state; what the run directory has of later ones is put aside.

    Raises BackboneError where there is none.
    """
    newest = engine_state_dir(run) / "latest_checkpointed_iteration.txt"
    try:
        step = int(newest.read_text())
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"cannot resume: {newest} does not name {engine}'s latest state ({error}); give the "
            "trainer_common.checkpoint_base_dir of the first start, or start without --resume"
        ) from error
    run.console.say(f"resuming from step {step} in {newest.parent}")
    away = run.run_dir.set_aside(after_step=step, is_logged=True)
    if away is not None:
        run.console.say(f"what was done after step {step} is done again; it lies in {away}")
    return step


@contextmanager
def at_work(
    work: Callable[[], Any], *, name: str, end: Callable[[], None]
) -> Iterator[Future[None]]:
    """`work` in a thread of its own, which has ended when the context is left.

    The thread waits inside of Ray, and leaving Ray under it would crash the process: where the run
    ends before it, `end` ends the actors that it waits for.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            done.set_exception(error)
        else:
            done.set_result(None)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        if thread.is_alive():
            end()
            thread.join(timeout=_END_SECONDS)
