"""One choice of a call: a chat that lives for it alone, and what is known of it afterwards."""

import time

from astuner.gateway.sampling import Distribution
from astuner.inference.limits import FirstPromptTooLong
from astuner.inference.request import ChatReply, ChatRequest, OnDelta
from astuner.inference.watch import Delta
from astuner.model_server.served_model import ServedModel
from astuner.serving.refusal import Refusal
from astuner.trajectory.recorder import Call, Recorder


class ChoiceCall:
    """Answers one choice when it is called. A `Fly` of its flight."""

    def __init__(
        self,
        model: ServedModel,
        request: ChatRequest,
        distribution: Distribution,
        *,
        is_stream: bool,
    ) -> None:
        self.model = model
        self.request = request
        self.distribution = distribution
        self.first_piece_at: float | None = None
        """By `time.monotonic`; None where nobody was told of pieces."""
        self._is_stream = is_stream
        self._recorder = Recorder()

    @property
    def answer(self) -> Call | None:
        """The call that gave the reply; None before there is one."""
        return self._recorder.calls[-1] if self._recorder.calls else None

    async def __call__(self, on_delta: OnDelta) -> ChatReply:
        is_seeded = self.request.seed is not None
        chat = self.model.start_chat(self._recorder, self.distribution, is_seeded=is_seeded)

        def tell(delta: Delta) -> None:
            if self.first_piece_at is None:
                self.first_piece_at = time.monotonic()
            on_delta(delta)

        try:
            return await chat.complete(self.request, on_delta=tell if self._is_stream else None)
        except FirstPromptTooLong as error:
            raise self._too_long() from error

    def _too_long(self) -> Refusal:
        return Refusal(
            400,
            f"the conversation is too long: this model takes {self.model.max_len} tokens, prompt "
            "and reply together (--max-len); shorten the messages or the tools",
            code="context_length_exceeded",
            param="messages" if self.request.prompt is None else "prompt",
        )
