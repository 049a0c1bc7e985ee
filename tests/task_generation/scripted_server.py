"""A model server that writes tasks, and misbehaves by the content of what it is asked.

What it says depends on the question alone, and what goes wrong on the question and on how often it
was asked: so every run against it meets the same troubles, in whatever order it asks.
"""

import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.llm_server import Reply, refuses, says

DRAFT_MARK = "Write a task"
CHECK_MARK = "Is it answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Troubles:
    """Parts of the questions that meet each of them."""

    overload: float = 0.0
    """429 with Retry-After at first; then an answer."""
    hang_up: float = 0.0
    """No answer in time, at first."""
    half_json: float = 0.0
    """At first; once more, the answer is whole."""
    refusal: float = 0.0
    """Prose in place of JSON, as often as it is asked."""
    wrong_language: float = 0.0
    repeated: float = 0.0
    """The same task, whatever the chunk."""
    unsupported: float = 0.0
    """Of checks: the answer is no."""
    never: float = 0.0
    """500, as often as it is asked."""


EVERY_TROUBLE = Troubles(
    overload=0.15,
    half_json=0.1,
    refusal=0.05,
    wrong_language=0.05,
    repeated=0.1,
    unsupported=0.2,
)


@dataclass(kw_only=True)
class TaskWriter:
    """The script of a server; see `tests.llm_server.serving`."""

    troubles: Troubles = field(default_factory=Troubles)
    max_seconds: float = 0.0
    """Longest time that an answer takes; how long, the question decides."""
    answered: Counter[str] = field(default_factory=Counter)
    """How often each question was answered, by its digest."""
    asked: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, body: dict[str, Any]) -> Reply:
        # The first message and the seed: an answer that did not fit is asked for again behind them.
        asked = json.dumps([body["messages"][0], body.get("seed")], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()[:16]
        with self._lock:
            self.asked[key] += 1
            num_asked = self.asked[key]
        random = Random(key)
        trouble = self._trouble(random)
        time.sleep(random.uniform(0, self.max_seconds))
        if trouble == "overload" and num_asked == 1:
            return refuses(429, "slow down", retry_after="0")
        if trouble == "hang_up" and num_asked == 1:
            return Reply(body=b"", status=200, held_by=threading.Event())
        if trouble == "never":
            return refuses(500, "the model is not loaded")
        with self._lock:
            self.answered[key] += 1
        text = self._text(body["messages"][0]["content"], trouble, key)
        is_half = trouble == "half_json" and len(body["messages"]) == 1
        return says(text[: len(text) // 2] if is_half else text, tokens=(len(asked) // 4, 20))

    def _trouble(self, random: Random) -> str | None:
        drawn = random.random()
        for name in Troubles.__dataclass_fields__:
            share = getattr(self.troubles, name)
            if drawn < share:
                return name
            drawn -= share
        return None

    def _text(self, asked: str, trouble: str | None, key: str) -> str:
        if CHECK_MARK in asked:
            return json.dumps({"is_supported": trouble != "unsupported"})
        if trouble == "refusal":
            return "I am sorry, but I cannot help with that."
        chunk = asked.partition("CHUNK: ")[2].partition("\n")[0]
        question = f"What does number {key[:6]} of {chunk!r} say?"
        if trouble == "wrong_language":
            question = f"Was sagt Nummer {key[:6]} von {chunk!r}?"
        if trouble == "repeated":
            question = "What does the guide say?"
        return json.dumps({"question": question, "answer": key, "evidence": chunk})
