"""Serves a small model on this machine, for a laptop without a model server.

    python -m tutorial.example_document_qa.small_server models/smollm2-135m-instruct

It speaks as much of OpenAI's API as the making of tasks asks for. A model of this size writes no
JSON by itself, so the names of a demanded form are written for it, and it fills in the values;
servers of large models call that structured output. Nor does it do as it is told: left alone it
copies almost nothing without a mistake, and its questions make no sense. So where a draft is asked
for, it is shown three of them in place of the instructions, and only chooses: the evidence among
the sentences of the text, and the answer among the words of the evidence. The question is the
sentence with a gap, and with the answer among other words of the text. Questions that wait are
answered together.
"""

import argparse
import contextlib
import json
import queue
import random
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

PORT = 8766
MAX_BATCH = 16
MAX_VALUE_TOKENS = 48
"""A small model that has begun to repeat itself fills all that it is given."""
MIN_SENTENCE_WORDS, MAX_SENTENCE_WORDS = 7, 30
MAX_ANSWER_WORDS = 2
MIN_WORDS_BEFORE = 2
"""The beginning of the sentence tells what it is about."""
NUM_OTHERS = 2
GAP = "____"
WAIT_SECONDS = 0.05
"""For further questions, before those that are there are answered."""
_FORM = re.compile(r"\s*Answer with JSON that fits the following schema.*\n(\{.*\})\s*$")

_TEXT = re.compile(r"<text (\w+)>\n(.*)\n</text \1>", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n\s*\n|\n(?=[-|#])")
_SENTENCE = re.compile(r"[A-Z`][^|\"]*[.;]")
"""No row of a table, no heading, and no sign that would end a value."""
_WORD = re.compile(r"[\w`](?:[\w`./'-]*[\w`])?")
_BREAK = re.compile(r"[,.;:()]\s|[\[\]*#(|]|``")
"""Words on both sides of it are not left out together."""
_COMMON = re.compile(
    "also|been|both|does|each|from|have|into|more|most|much|only|over|same|some|such|than|that|"
    "them|then|there|these|they|this|those|very|well|were|what|when|where|which|will|with",
    re.IGNORECASE,
)
"""Of four letters and more, what an answer neither begins nor ends with."""
_DRAFTS = (
    (
        "The lamp has a switch at its back. It is switched off by itself after 20 minutes.",
        "It is switched off by itself after 20 minutes.",
        "20 minutes",
    ),
    (
        "# Parcels\n\nEvery parcel is weighed by `scale.py`, and one above 10 kg is refused.",
        "Every parcel is weighed by `scale.py`, and one above 10 kg is refused.",
        "refused",
    ),
    (
        "- **A door that jams**: the log names it. Oil the hinges, or set `door.force` to 3.",
        "Oil the hinges, or set `door.force` to 3.",
        "`door.force`",
    ),
)
"""Text, evidence, answer."""

Choose = Callable[[Tensor], int]
"""Picks a token by its logits."""
Steps = Generator[int, Tensor, str]
"""Yields the token to go on with, is sent the logits behind it, and returns the answer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """One question on its way."""

    prompt_ids: list[int]
    steps: Steps
    said: list[int] = field(default_factory=list)
    answer: Future[str] = field(default_factory=Future)


class SmallModel:
    """Answers several questions together, one token of each at a time."""

    def __init__(self, folder: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        vocabulary = self._tokenizer.get_vocab()
        self._quotes = [id_ for token, id_ in vocabulary.items() if token.startswith('"')]
        self._waiting: queue.Queue[Asked] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completion, for the body of a request; it blocks."""
        asked = self._read(body)
        self._waiting.put(asked)
        message = {"role": "assistant", "content": asked.answer.result()}
        num_asked, num_said = len(asked.prompt_ids), len(asked.said)
        return {
            "id": "small",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": num_asked,
                "completion_tokens": num_said,
                "total_tokens": num_asked + num_said,
            },
        }

    def _read(self, body: Mapping[str, Any]) -> Asked:
        messages = [dict(message) for message in body["messages"]]
        form = _FORM.search(messages[-1]["content"])
        if form is not None:  # a small model copies a schema that it sees
            messages[-1]["content"] = messages[-1]["content"][: form.start()]
            if '"evidence"' in form.group(1) and (text := _TEXT.search(messages[-1]["content"])):
                return self._read_draft(text.group(2))
        choose = _chooser(body.get("temperature") or 0.0, random.Random(body.get("seed")))
        max_tokens = body.get("max_tokens") or MAX_VALUE_TOKENS
        if form is None:
            steps = self._talk(choose, max_tokens)
        else:
            steps = self._fill_in(json.loads(form.group(1)), choose, max_tokens)
        return Asked(prompt_ids=self._prompt_ids(messages), steps=steps)

    def _read_draft(self, text: str) -> Asked:
        messages: list[dict[str, Any]] = []
        for shown, evidence, answer in _DRAFTS:
            draft = {"evidence": evidence, "answer": answer}
            messages.append({"role": "user", "content": shown})
            messages.append({"role": "assistant", "content": json.dumps(draft)})
        messages.append({"role": "user", "content": text})
        return Asked(prompt_ids=self._prompt_ids(messages), steps=self._draft(text))

    def _prompt_ids(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        prompt = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return self._encode(prompt)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _talk(self, choose: Choose, max_tokens: int) -> Steps:
        text, _ = yield from self._write((yield 0), choose, max_tokens, ends="")
        return text

    def _draft(self, text: str) -> Steps:
        """All values are empty where the text has too little to choose from, as the form says."""
        sentences = {sentence: answers for sentence, answers in _sentences(text) if answers}
        logits = yield 0
        draft = dict.fromkeys(("evidence", "question", "answer"), "")
        if not sentences:
            return json.dumps(draft)
        logits = yield from self._say('{"evidence": "')
        evidence, logits = yield from self._copy(logits, list(sentences))
        logits = yield from self._say('", "answer": "')
        answer, _ = yield from self._copy(logits, sentences[evidence])
        others = _others(answer, evidence, text)
        if len(others) == NUM_OTHERS:
            question = _question(evidence, answer, others)
            draft = {"evidence": evidence, "question": question, "answer": answer}
        return json.dumps(draft, ensure_ascii=False)

    def _fill_in(self, schema: Mapping[str, Any], choose: Choose, max_tokens: int) -> Steps:
        """What need not be there is left out."""
        logits = yield 0
        values: dict[str, Any] = {}
        between = "{"
        for name in schema["required"]:
            is_text = schema["properties"][name]["type"] == "string"
            logits = yield from self._say(f'{between}"{name}": ' + '"' * is_text)
            if is_text:
                most = min(max_tokens, MAX_VALUE_TOKENS)
                values[name], logits = yield from self._write(logits, choose, most, ends='"\n')
                between = '", '
            else:
                yes, no = (self._encode(word)[0] for word in ("true", "false"))
                values[name] = bool(logits[yes] >= logits[no])
                logits = yield yes if values[name] else no
                between = ", "
        return json.dumps(values, ensure_ascii=False)

    def _say(self, text: str) -> Generator[int, Tensor, Tensor]:
        """The logits behind a text that is written for it."""
        logits = torch.empty(0)
        for id_ in self._encode(text):
            logits = yield id_
        return logits

    def _write(
        self, logits: Tensor, choose: Choose, max_tokens: int, *, ends: str
    ) -> Generator[int, Tensor, tuple[str, Tensor]]:
        """Text up to one of the signs that end it, and the logits behind its last token."""
        ids: list[int] = []
        while len(ids) < max_tokens:
            chosen = choose(logits)
            if chosen == self._tokenizer.eos_token_id:
                break
            ids.append(chosen)
            if {*ends} & {*self._tokenizer.decode([chosen])}:
                break
            logits = yield chosen
        text = self._tokenizer.decode(ids)
        return (re.split(f"[{ends}]", text)[0] if ends else text).strip(), logits

    def _copy(
        self, logits: Tensor, choices: Sequence[str]
    ) -> Generator[int, Tensor, tuple[str, Tensor]]:
        """One of the texts, the most probable token first; a quote ends one that others go on."""
        left = {tuple(self._encode(choice)): choice for choice in choices}
        ids: tuple[int, ...] = ()
        while True:
            left = {c: text for c, text in left.items() if c[: len(ids)] == ids}
            possible = {c[len(ids)] for c in left if len(c) > len(ids)}
            best = max(possible, key=lambda id_: float(logits[id_]), default=None)
            if best is None or (ids in left and logits[self._quotes].max() > logits[best]):
                return left[ids], logits
            ids += (best,)
            logits = yield best

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < MAX_BATCH:
                    batch.append(self._waiting.get(timeout=WAIT_SECONDS))
            try:
                self._answer(batch)
            except Exception as error:  # noqa: BLE001  # who waits for it is told
                for asked in batch:
                    if not asked.answer.done():
                        asked.answer.set_exception(error)

    @torch.inference_mode()
    def _answer(self, batch: Sequence[Asked]) -> None:
        """What all prompts begin with is read once; the rest is padded on the left."""
        num_shared = _num_shared([asked.prompt_ids for asked in batch])
        own = [asked.prompt_ids[num_shared:] for asked in batch]
        longest = max(map(len, own))
        cache = DynamicCache(config=self._model.config)
        if num_shared:
            shared_1T = torch.tensor([batch[0].prompt_ids[:num_shared]])
            self._model(input_ids=shared_1T, past_key_values=cache, logits_to_keep=1)
            cache.batch_repeat_interleave(len(batch))
        ids_BT = torch.tensor([[0] * (longest - len(ids)) + ids for ids in own])
        mask_BT = torch.tensor(
            [[1] * num_shared + [0] * (longest - len(ids)) + [1] * len(ids) for ids in own]
        )
        for asked in batch:
            next(asked.steps)
        while not all(asked.answer.done() for asked in batch):
            positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
            output = self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                logits_to_keep=1,
            )
            rows = zip(batch, output.logits[:, -1], strict=True)
            ids_BT = torch.tensor([[_next_id(asked, logits_V)] for asked, logits_V in rows])
            mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=-1)


def _num_shared(prompts: Sequence[list[int]]) -> int:
    """Ids that all begin with; each has at least one more."""
    first, last = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    return next((n for n in range(most) if first[n] != last[n]), most)


def _sentences(text: str) -> Iterator[tuple[str, list[str]]]:
    """Of some length, each with what may be left out of it."""
    for piece in _SENTENCE_END.split(text):
        sentence = " ".join(piece.split())
        num_words = len(sentence.split())
        if (
            MIN_SENTENCE_WORDS <= num_words <= MAX_SENTENCE_WORDS
            and _SENTENCE.fullmatch(sentence) is not None
        ):
            yield sentence, _answers(sentence)


def _answers(sentence: str) -> list[str]:
    """A few words behind the first ones, without a sign between them, that stand there once."""
    words = list(_WORD.finditer(sentence))
    texts = [
        sentence[first.start() : last.end()]
        for start, first in enumerate(words)
        for last in words[start : start + MAX_ANSWER_WORDS]
        if start >= MIN_WORDS_BEFORE and _is_telling(first.group()) and _is_telling(last.group())
    ]
    return [
        text
        for text in texts
        if sentence.count(text) == 1 and not _BREAK.search(text) and text.count("`") % 2 == 0
    ]


def _others(answer: str, evidence: str, text: str) -> list[str]:
    """Of the rest of the text, by lot: about as long, and with no word that was there before."""
    rest = " ".join(text.split()).replace(evidence, "")
    lots = random.Random(answer)
    by_length = sorted(
        _answers(rest),
        key=lambda one: (abs(len(one.split()) - len(answer.split())), lots.random()),
    )
    used = {word.casefold() for word in _WORD.findall(evidence)}
    others: list[str] = []
    for one in by_length:
        words = {word.casefold() for word in _WORD.findall(one)}
        if len(others) < NUM_OTHERS and not words & used:
            others.append(one)
            used |= words
    return others


def _question(evidence: str, answer: str, others: Sequence[str]) -> str:
    choices = [answer, *others]
    random.Random(evidence).shuffle(choices)
    lines = [f"- {choice}" for choice in choices]
    return "\n".join([f"Fill the gap: {evidence.replace(answer, GAP)}", *lines])


def _is_telling(word: str) -> bool:
    return any(map(str.isdigit, word)) or (len(word) > 3 and not _COMMON.fullmatch(word))


def _chooser(temperature: float, stream: random.Random) -> Choose:
    """Temperature 0 takes the most probable token."""

    def choose(logits_V: Tensor) -> int:
        if temperature == 0:
            return int(logits_V.argmax())
        sums_V = torch.softmax(logits_V / temperature, -1).cumsum(-1)
        return int(torch.searchsorted(sums_V, stream.random() * sums_V[-1].item()))

    return choose


def _next_id(asked: Asked, logits_V: Tensor) -> int:
    """Of an answer that is done, any: nobody reads it."""
    if asked.answer.done():
        return 0
    try:
        asked.said.append(asked.steps.send(logits_V))
    except StopIteration as ended:
        asked.answer.set_result(ended.value)
        return 0
    return asked.said[-1]


class _Handler(BaseHTTPRequestHandler):
    model: SmallModel

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        sent = json.dumps(self.model.complete(asked)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the caller may have given up
            self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it is asked hundreds of times."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


def make_server(folder: str, port: int) -> ThreadingHTTPServer:
    """Listens on this machine alone; port 0 is a free one."""
    handler = type("_HandlerOfModel", (_Handler,), {"model": SmallModel(folder)})
    return _Server(("127.0.0.1", port), handler)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder, or name on the hub")
    parser.add_argument("--port", type=int, default=PORT)
    given = parser.parse_args()
    with make_server(given.model, given.port) as server:
        print(f"{given.model} at http://127.0.0.1:{server.server_port}/v1; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
