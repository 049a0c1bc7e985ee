"""The model calls of an agent in this process. Those that come to nothing leave traces, as at the
gateway, since an agent may swallow what it is refused.
"""

from collections.abc import Iterable

from astuner.errors import EngineError, EpisodeError, RequestError
from astuner.inference.request import Chat, ChatReply, ChatRequest, OnDelta
from astuner.trajectory.refusal_log import RefusalLog
from astuner.trajectory.refused import IN_PROCESS, RefusedCall


class NotedChat:
    """A chat, and notes in the episode's record."""

    def __init__(self, chat: Chat, log: RefusalLog) -> None:
        self.recorder = chat.recorder
        self._chat = chat
        self._log = log

    async def complete(self, request: ChatRequest, *, on_delta: OnDelta | None = None) -> ChatReply:
        try:
            reply = await self._chat.complete(request, on_delta=on_delta)
        except EpisodeError as error:
            raise self.refused(error)  # noqa: B904  # the same error
        if reply.is_empty:
            self._note(
                RefusedCall.answered_with_nothing(
                    path=IN_PROCESS, num_prompt_tokens=reply.num_prompt_tokens
                )
            )
        return reply

    def refused(self, error: EpisodeError) -> EpisodeError:
        """Note why a call has no answer, unless it came when the episode was over."""
        if self.recorder.ended is None or self.recorder.madness is not None:
            field = error.param if isinstance(error, RequestError) else None
            self._note(
                RefusedCall.of(
                    path=IN_PROCESS, status=_status(error), field=field, message=str(error)
                )
            )
        return error

    def _note(self, call: RefusedCall) -> None:
        self.recorder.refuse(call)
        self._log.note(call)


def unsettable(arguments: Iterable[str]) -> RequestError:
    """Why a call that names these is refused."""
    names = sorted(arguments)
    return RequestError(
        f"model call: {names} cannot be set per call; the distribution that is "
        "trained is set by rollout.temperature and its neighbours",
        param=names[0],
    )


def _status(error: EpisodeError) -> int:
    """That the gateway would answer with."""
    if isinstance(error, RequestError):
        return 400
    return 500 if isinstance(error, EngineError) else 410
