"""An OpenAI-compatible server: its address, its keys and the client that talks to it.

The only place that reads keys from the environment. Keys leave it in the header of a request and
nowhere else.
"""

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from astuner.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_NO_KEY = "not-needed"
"""What the package sends to servers that want no key; it refuses to send none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmServer:
    """A server and the keys that it takes."""

    base_url: str
    api_key_env: str
    """Name of the variable that the keys stand in."""
    keys: tuple[str, ...] = field(repr=False)
    """Empty where the variable is not set."""

    @classmethod
    def read(
        cls, base_url: str, api_key_env: str, environ: Mapping[str, str] = os.environ
    ) -> "LlmServer":
        """The server with the keys that the environment has for it.

        A variable may hold several, joined by "|", which no bearer token contains (RFC 6750,
        section 2.1); requests use them in turn. Raises ConfigError for what cannot be sent.
        """
        written = [key.strip() for key in environ.get(api_key_env, "").split("|")]
        keys = tuple(key for key in written if key)
        if not all(re.fullmatch(r"[!-~]+", key) for key in keys):
            raise ConfigError(
                f"the environment variable {api_key_env} holds characters that no key has, such "
                "as spaces; set it to the key alone"
            )
        return cls(base_url=base_url, api_key_env=api_key_env, keys=keys)

    def open_client(self, *, max_retries: int = 2) -> "AsyncOpenAI":
        """A client that repeats a failed request by itself so often; 2 as the package has it.

        Raises ConfigError where the package is missing.
        """
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise ConfigError(
                f"{self.base_url}: asking a server needs the package openai; "
                "pip install 'astuner[openai]'"
            ) from error
        keys = itertools.cycle(self.keys or (_NO_KEY,))

        async def next_key() -> str:
            return next(keys)

        return AsyncOpenAI(base_url=self.base_url, api_key=next_key, max_retries=max_retries)

    def without_keys(self, text: str) -> str:
        """The text with stars for keys: servers may repeat them in their errors."""
        for key in self.keys:
            text = text.replace(key, "***")
        return text


def describe_no_completion(found: object) -> str:
    """The end of the message about an answer that is something else, such as a web page."""
    return (
        f"the answer is no chat completion but {str(found)[:200]!r}; does the address end in /v1?"
    )
