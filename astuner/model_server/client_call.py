"""One request of a client, from its head to its end: found, begun, left, and told to observers.

Owns which model answers, and with which distribution. Nothing of a call is kept once it was told.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from astuner.gateway.asker import Boarded
from astuner.gateway.flights import Flight, Ticket
from astuner.gateway.wires.wire_format import Ask
from astuner.inference.aside import Lane
from astuner.model_server.choice_call import ChoiceCall
from astuner.model_server.clients import ApiClient
from astuner.model_server.distribution import asked_distribution
from astuner.model_server.served_call import ServedCall
from astuner.model_server.served_model import ServedModels
from astuner.serving.refusal import Refusal
from astuner.serving.under_way import UnderWay
from astuner.trajectory.refused import RefusedCall

_LEFT = 499
_SESSION_HEADERS = (b"x-session-id", b"session_id", b"session-id", b"x-claude-code-session-id")
_RECORD_HEADER = b"x-astuner-record"
_MAX_NAME_CHARACTERS = 256

TellCall = Callable[[ServedCall], None]


@dataclass(slots=True)
class _Outcome:
    """What is known of the request so far."""

    ask: Ask | None = None
    flight: Flight | None = None
    choices: Sequence[ChoiceCall] = ()
    has_read: bool = False
    refused: RefusedCall | None = None


@dataclass(slots=True, kw_only=True)
class ClientCall:
    """An Asker for one request."""

    client: ApiClient
    models: ServedModels
    under_way: UnderWay
    path: str
    headers: Mapping[bytes, bytes]
    tell: TellCall
    lane: Lane = field(default_factory=Lane)
    _outcome: _Outcome = field(default_factory=_Outcome)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Raises Refusal where no further call is taken on."""
        started, clock = time.time(), time.monotonic()
        try:
            with self.under_way.one():
                yield
        except Refusal as refusal:
            self._outcome.refused = self._outcome.refused or RefusedCall.of(
                path=self.path,
                status=refusal.status,
                field=refusal.param,
                message=refusal.message,
            )
            raise
        finally:
            for call in self._served_calls(started, clock):
                self.tell(call)

    def board(self, ask: Ask, ticket: Ticket, *, path: str) -> Boarded:
        """Raises Refusal for a model that is not served, and for sampling out of range."""
        self._outcome.ask = ask
        model = self.models.find(ask.model)
        distribution = asked_distribution(ask, model.own.distribution)
        choices = [
            ChoiceCall(model, request, distribution, is_stream=ask.is_stream)
            for request in ask.requests
        ]
        # Many programs share a key: equal calls are one only where their client says so.
        attempt = ticket.attempt or 0
        ticket = Ticket(body=ticket.body, idempotency_key=ticket.idempotency_key, attempt=attempt)
        flight = self.client.flights.board(ticket, choices)
        self._outcome.flight = flight
        self._outcome.choices = self.client.choices.setdefault(flight, choices)
        return Boarded(flight=flight, ask=replace(ask, model=model.name), headers={})

    def leave(self, flight: Flight, *, has_read: bool) -> None:
        self._outcome.has_read = has_read
        self.client.flights.leave(flight, has_read=has_read)

    def note_refused(self, call: RefusedCall) -> None:
        self._outcome.refused = call

    def _served_calls(self, started: float, clock: float) -> Iterator[ServedCall]:
        """One for each choice; one where it did not come to choices."""
        seconds = time.monotonic() - clock
        outcome = self._outcome
        if not outcome.choices:
            yield self._served(None, 0, started, seconds, None)
        for index, choice in enumerate(outcome.choices):
            first = choice.first_piece_at
            since = None if first is None else max(0.0, first - clock)
            yield self._served(choice, index, started, seconds, since)

    def _served(
        self,
        choice: ChoiceCall | None,
        index: int,
        started: float,
        seconds: float,
        seconds_to_first: float | None,
    ) -> ServedCall:
        outcome, ask = self._outcome, self._outcome.ask
        answer = choice.answer if choice and outcome.has_read else None
        messages: Any = answer.messages if answer else choice.request.messages if choice else ()
        tools: Any = answer.tools if answer else choice.request.tools if choice else ()
        head = outcome.flight.head.id if outcome.flight else ""
        return ServedCall(
            call_id=f"{head}-{index}" if index else head,
            started=started,
            path=self.path,
            model=ask.model if ask else "",
            user=ask.user if ask else None,
            session=self._session(),
            messages=messages,
            tools=tools,
            reply=answer.reply if answer else None,
            finish_reason=answer.completion.finish_reason if answer else None,
            prompt_ids=answer.prompt_ids if answer else (),
            reply_ids=answer.completion.ids if answer else (),
            logprobs=answer.completion.logprobs if answer else (),
            temperature=choice.distribution.temperature if choice else 0.0,
            top_p=choice.distribution.top_p if choice else 1.0,
            top_k=choice.distribution.top_k if choice else -1,
            seconds=seconds,
            seconds_to_first_token=seconds_to_first,
            status=self._status(),
            error=outcome.refused.message if outcome.refused else None,
            answered_by=choice.model.name if choice else None,
            weights=choice.model.weights if choice else None,
            is_stream=ask.is_stream if ask else False,
            key=self.client.label,
            is_recordable=self._is_recordable(),
        )

    def _status(self) -> int:
        if self._outcome.refused is not None:
            return self._outcome.refused.status
        return 200 if self._outcome.has_read else _LEFT

    def _session(self) -> str | None:
        named = (self.headers.get(name) for name in _SESSION_HEADERS)
        found = next((one.decode("latin-1") for one in named if one), None)
        if found is None and self._outcome.ask is not None:
            return self._outcome.ask.session
        return None if found is None else found[:_MAX_NAME_CHARACTERS]

    def _is_recordable(self) -> bool:
        return self.headers.get(_RECORD_HEADER, b"").lower() not in (b"no", b"off", b"0", b"false")
