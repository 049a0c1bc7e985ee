"""Why a request is not answered as it asks: a status, and words for people and programs.

Raised by whatever finds the reason. How it is written to the client stands in `answer.py`.
"""

from collections.abc import Mapping

CLOSE: Mapping[str, str] = {"connection": "close"}
"""Headers of a refusal that ends the connection: of whoever has not shown that they may ask."""


class Refusal(Exception):
    """A request that is not answered as it asks."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP, 400 to 599."""
        self.message = message
        self.code = code
        """One word for programs, for example invalid_api_key."""
        self.param = param
        """The field of the body that is at fault; None where it is not one field."""
        self.headers = dict(headers or {})
        """Of the answer, beside its own."""
