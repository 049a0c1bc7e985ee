"""llama.cpp, running one file in a process of its own, and what it makes of a probe.

Its own template engine and tokenizer read the messages, as they do for whoever asks it later. The
reply is read along the probe's own tokens, by one call for each place. What llama.cpp then says is
forced by a bias, which it applies behind the probabilities that it reports: where it says a part of
a character, it reports none.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import httpx

from astuner.errors import ConfigError
from astuner.exporting.format import ExportProbe, ExportRefused, ProbeReading
from astuner.types import Message, Tool

_CHILD = "astuner.exporting.llama_cpp_child"
_PACKAGE = "xllamacpp"
_START_SECONDS = 60.0
_SLOWEST_DISK = 20e6
"""Bytes a second that a file is at least read at."""
_CALL_SECONDS = 600.0
"""A long prompt through a large model on few cores takes minutes."""
_END_SECONDS = 10.0
_NUM_LIKELIEST = 20
_ALL = 2**31 - 1
_FORCED = 1e9
"""Added to the logit of the token that is to come; no logit comes near."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidToken:
    """What llama.cpp says in one place of a reply."""

    logprob: float
    """Of the token that was asked for, natural log."""
    likeliest_id: int


class LlamaCpp:
    """One file, loaded. Made by `running`."""

    name = "llama.cpp"

    def __init__(self, client: httpx.Client, process: "subprocess.Popen[str]", log: Path) -> None:
        self._client = client
        self._process = process
        self._log = log
        self._harmless_id = self.encode_plain("a")[0]

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """By the chat template in the file, with the opening of the reply. Where the tokenizer
        puts a token in front by itself, llama.cpp leaves it out here."""
        asked: dict[str, Any] = {"messages": list(messages)}
        if tools:
            asked["tools"] = list(tools)
        return self._ask("/apply-template", asked)["prompt"]

    def encode(self, text: str) -> list[int]:
        """As llama.cpp encodes the prompt of a chat."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        return self._ask("/tokenize", asked)["tokens"]

    def encode_plain(self, text: str) -> list[int]:
        """Without anything in front of it or behind it."""
        return self._ask("/tokenize", {"content": text, "parse_special": True})["tokens"]

    def chat_length(self, messages: Sequence[Message], tools: Sequence[Tool]) -> int:
        """Tokens of the prompt when the messages come as an OpenAI chat request."""
        asked: dict[str, Any] = {"messages": list(messages), "max_tokens": 1}
        if tools:
            asked["tools"] = list(tools)
        return self._ask("/v1/chat/completions", asked)["usage"]["prompt_tokens"]

    def say(self, ids: Sequence[int], token: int) -> SaidToken:
        """What the model says behind `ids`, and of `token` in that place."""
        told = self._place(ids, num_likeliest=_NUM_LIKELIEST)
        if token not in (one["id"] for one in told):
            told = self._place(ids, num_likeliest=_ALL)
        return SaidToken(
            logprob=next(one["logprob"] for one in told if one["id"] == token),
            likeliest_id=told[0]["id"],
        )

    def ends_at(self, ids: Sequence[int], token: int) -> bool:
        """Whether a reply ends where `token` comes behind `ids`."""
        return self._forced(ids, token, num_likeliest=0)["stop_type"] == "eos"

    def _place(self, ids: Sequence[int], *, num_likeliest: int) -> list[dict[str, Any]]:
        """The likeliest tokens behind `ids`, in order."""
        told = self._forced(ids, self._harmless_id, num_likeliest=num_likeliest)
        return told["completion_probabilities"][0]["top_logprobs"]

    def _forced(self, ids: Sequence[int], token: int, *, num_likeliest: int) -> dict[str, Any]:
        return self._ask(
            "/completion",
            {
                "prompt": list(ids),
                "n_predict": 1,
                "n_probs": num_likeliest,
                "samplers": ["temperature"],
                "temperature": 0,
                "logit_bias": [[token, _FORCED]],
                "cache_prompt": True,
            },
        )

    def read(self, probe: ExportProbe, *, text: str | None = None) -> ProbeReading:
        """The probe's conversation by the file's own template, and its reply along its own tokens.

        `text` stands in for what the template makes where that is another each minute.
        """
        if text is None:
            text = self.prompt_text(probe.messages, probe.tools)
        end = [] if probe.end_id is None else [probe.end_id]
        reply = [*probe.greedy_ids, *end]
        told = [
            self.say([*probe.prompt_ids, *reply[:place]], token)
            for place, token in enumerate(reply)
        ]
        likeliest = [one.likeliest_id for one in told]
        if end and likeliest[-1] == probe.end_id:
            likeliest = likeliest[:-1]
        return ProbeReading(
            prompt_ids=self.encode(text),
            greedy_ids=likeliest,
            logprobs=[one.logprob for one in told[: len(probe.greedy_ids)]],
        )

    def _ask(self, path: str, asked: dict[str, Any]) -> Any:
        try:
            answer = self._client.post(path, json=asked)
        except httpx.TimeoutException as error:
            raise ExportRefused(
                f"verifying the export failed: {self.name} gave no answer on {path} within "
                f"{_CALL_SECONDS:.0f} s; end what else uses this machine and export again"
            ) from error
        except httpx.TransportError as error:
            raise ExportRefused(self._died(path, error)) from error
        if answer.status_code != httpx.codes.OK:
            raise ExportRefused(
                f"verifying the export failed: {self.name} refuses {path} with "
                f"{answer.status_code}: {answer.text[:500]}. It cannot use this file as it is; "
                "export with --to hf"
            )
        return answer.json()

    def _died(self, path: str, error: httpx.TransportError) -> str:
        try:
            code: int | None = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        why = f"it ended by itself ({_ending(code)})" if code is not None else str(error)
        return (
            f"the export is refused: {self.name} broke on {path}: {why}. Its last words: "
            f"{_last_words(self._log)}. Nobody could run this file; export with --to hf"
        )


def check_installed() -> None:
    """Raise ConfigError unless llama.cpp is installed."""
    if find_spec(_PACKAGE) is None:
        raise ConfigError(
            f"an export to llama.cpp is verified in llama.cpp, and {_PACKAGE}, which brings it, is "
            "not installed; install it with `pip install 'astuner[gguf]'`"
        )


def runtime_name() -> str:
    """Of what verifies, with its version."""
    return f"{LlamaCpp.name} ({_PACKAGE} {version(_PACKAGE)})"


@contextmanager
def running(file: Path, *, num_context: int, num_threads: int) -> Iterator[LlamaCpp]:
    """Load a file, and end llama.cpp behind the body whatever happens.

    Raises ConfigError where it is not installed, ExportRefused where it cannot load the file.
    """
    check_installed()
    key = secrets.token_hex(16)
    order = {
        "file": str(file),
        "num_context": num_context,
        "num_threads": num_threads,
        "key": key,
    }
    with tempfile.TemporaryDirectory(prefix="astuner-llama-cpp-") as scratch:
        log = Path(scratch, "log")
        with log.open("wb") as said, _process(said) as process:
            address = _address(process, order, file, log)
            with httpx.Client(
                base_url=address,
                headers={"Authorization": f"Bearer {key}"},
                timeout=_CALL_SECONDS,
                trust_env=False,  # a proxy has no way to this machine's own address
            ) as client:
                yield LlamaCpp(client, process, log)


@contextmanager
def _process(said: IO[bytes]) -> Iterator["subprocess.Popen[str]"]:
    """The process, not yet told what to load; killed where it does not end by itself."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-m", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # a Ctrl-C of the terminal is for this process, which ends it
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with suppress(BrokenPipeError):  # its exit code tells better
            process.stdin.close()


def _address(process: "subprocess.Popen[str]", order: dict[str, Any], file: Path, log: Path) -> str:
    """Where it serves, as soon as the file is loaded."""
    assert process.stdin is not None and process.stdout is not None
    seconds = _START_SECONDS + file.stat().st_size / _SLOWEST_DISK
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        with suppress(BrokenPipeError):  # its exit code tells better
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        address = process.stdout.readline().strip()
    finally:
        late.cancel()
    if address.startswith("http://"):
        return address
    raise ExportRefused(
        f"the export is refused: {LlamaCpp.name} cannot load {file.name} "
        f"({_ending(process.wait())}): {_last_words(log)}. Nobody could run this file; export with "
        "--to hf"
    )


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _last_words(log: Path) -> str:
    """The errors that llama.cpp logged, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.partition(" E ")[2] for line in lines if " E " in line]
    return "; ".join(errors[:3]) or (lines[-1] if lines else "none")
