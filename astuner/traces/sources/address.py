"""What a user names as a place with traces: a path, or the URL of a server."""

import urllib.parse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAddress:
    """An address with what may be said beside it."""

    text: str
    """A path or a URL, as the user wrote it."""
    project: str | None = None
    """Of a server: the project or experiment to read, by name or id; None: all."""
    wait_seconds: float = 5.0
    """How long a database that somebody writes to is waited for."""

    @property
    def is_url(self) -> bool:
        return self.text.startswith(("http://", "https://"))

    @property
    def path(self) -> Path:
        return Path(self.text).expanduser()

    @property
    def url(self) -> str:
        """Without name and password, query and fragment, and without a slash at its end."""
        split = urllib.parse.urlsplit(self.text)
        host = split.netloc.rpartition("@")[2]
        return f"{split.scheme}://{host}{split.path.rstrip('/')}"

    @property
    def user_and_password(self) -> tuple[str, str] | None:
        """That stand in the URL."""
        split = urllib.parse.urlsplit(self.text)
        if not split.username:
            return None
        return urllib.parse.unquote(split.username), urllib.parse.unquote(split.password or "")

    @property
    def shown(self) -> str:
        """As it may stand in files and messages."""
        return self.url if self.is_url else self.text
