"""A model that is asked and not trained: loaded in this process, or behind a server."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from astuner.backbone.assemble import find_model
from astuner.backbone.chats import MakeChat, make_remote_chat, make_token_chat
from astuner.backbone.run import Run
from astuner.inference.shapes.remote import RemoteChat
from astuner.llm.dialect import Dialect
from astuner.trajectory.recorder import Recorder
from astuner.types import WorkflowTask

if TYPE_CHECKING:
    from astuner.backbone.local.serve import LoadedEngine
    from astuner.engine.reference import ReferenceEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedModel:
    """What makes the chats of a pool."""

    make_chat: MakeChat
    make_reference_chat: MakeChat
    """For agents that are not trained; the same model unless another one is named."""
    serving: Callable[[], AbstractAsyncContextManager[None]]
    """Around all calls."""
    expect_callers: Callable[[int], None] | None
    """Told how many episodes are in flight, it answers the same whatever the timing; None: it is
    not ours to tell."""


def load_asked_model(run: Run, *, reference: str | None = None) -> AskedModel:
    """The one of model.path. Its memory is free again once nothing refers to it.

    `reference` answers agents that are not trained, and is loaded when one of them first calls.
    Raises ConfigError or BackboneError where that is not a usable chat model.
    """
    from astuner.backbone.local.serve import load_engine
    from astuner.models.supported import check_supported

    source = find_model(run)
    if run.settings.rollout.name != "vllm":  # which has an attention of its own
        check_supported(source)
    run.console.say(f"loading {run.settings.model.path}")
    loaded = load_engine(run, source)
    frozen = None if reference is None else _reference_engine(run, loaded, reference)
    engine = loaded.engine

    @asynccontextmanager
    async def serving() -> AsyncIterator[None]:
        async with engine.serving(), frozen.serving() if frozen else contextlib.nullcontext():
            yield

    return AskedModel(
        make_chat=make_token_chat(run, engine, loaded.template),
        make_reference_chat=make_token_chat(
            run, frozen or engine, loaded.template, is_trained=False
        ),
        serving=serving,
        expect_callers=loaded.attendance.expect,
    )


def _reference_engine(run: Run, loaded: "LoadedEngine", reference: str) -> "ReferenceEngine":
    from astuner.backbone.local.reference_weights import load_frozen
    from astuner.backbone.local.serve import make_reference_engine
    from astuner.engine.reference import ReferenceEngine

    return ReferenceEngine(
        partial(make_reference_engine, run, loaded),
        partial(load_frozen, run.settings.model, reference),
    )


def model_behind(run: Run, client: Any, *, model_name: str, setting: str) -> AskedModel:
    """The one of that name behind `client`, an `openai.AsyncOpenAI`; `setting` names the server."""
    dialect = Dialect(model_name)

    def make(recorder: Recorder, task: WorkflowTask, *, is_trained: bool) -> RemoteChat:
        return make_remote_chat(
            run,
            client,
            recorder,
            model_name=model_name,
            dialect=dialect,
            setting=setting,
            is_trained=is_trained,
            is_validation=task.is_validation,
        )

    return AskedModel(
        make_chat=partial(make, is_trained=True),
        make_reference_chat=partial(make, is_trained=False),
        serving=contextlib.nullcontext,
        expect_callers=None,
    )
