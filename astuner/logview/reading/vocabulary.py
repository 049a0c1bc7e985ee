"""What each token id stands for, as the run's tokenizer told it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.logview.reading.lines import MAX_LINE_BYTES, json_object, own_file
from astuner.machine.regular_file import open_regular

_NAME = "vocabulary.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPiece:
    """One token as it can be shown."""

    id: int
    text: str
    """As it is, whitespace and control characters included; of a part of a character its bytes in
    hex, as in `e2 96`; of an id that the vocabulary does not have the number in angles."""
    is_special: bool
    is_partial: bool
    """Whether its bytes are no whole characters, so that `text` is hex."""


class Vocabulary:
    """The tokens of a run's model."""

    def __init__(self, tokens: list[str | bytes], special: frozenset[int]) -> None:
        """`tokens` by their ids: text, or bytes where these are no whole characters."""
        self._tokens = tokens
        self._special = special

    def __len__(self) -> int:
        return len(self._tokens)

    def pieces(self, ids: Iterable[int]) -> list[TokenPiece]:
        """One for each id, in order."""
        return [self._piece(id_) for id_ in ids]

    def _piece(self, id_: int) -> TokenPiece:
        token = self._tokens[id_] if 0 <= id_ < len(self._tokens) else f"<{id_}>"
        is_partial = isinstance(token, bytes)
        return TokenPiece(
            id=id_,
            text=token.hex(" ") if isinstance(token, bytes) else token,
            is_special=id_ in self._special,
            is_partial=is_partial,
        )


class VocabularyReader:
    """Reads the vocabulary of one run when it is first asked for, and again when it changed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: tuple[tuple[int, int], Vocabulary | None] = ((0, 0), None)

    def read(self) -> Vocabulary | None:
        """None where the run wrote none, and where its form is not known."""
        path = own_file(self._root, _NAME)
        try:
            if path is None or (stat := path.stat()).st_size > MAX_LINE_BYTES:
                return None
            mark = (stat.st_size, stat.st_mtime_ns)
            if self._known[0] != mark:
                with open_regular(path) as file:
                    self._known = (mark, _vocabulary_in(file.read(MAX_LINE_BYTES)))
        except OSError:
            return None
        return self._known[1]


def _vocabulary_in(data: bytes) -> Vocabulary | None:
    try:
        content = json_object(data)
        if content["format"] != _FORMAT:
            return None
        tokens = [_token_in(token) for token in content["tokens"]]
        return Vocabulary(tokens, frozenset(content["special"]))
    except (ValueError, KeyError, TypeError):
        return None


def _token_in(token: Any) -> str | bytes:
    return token if isinstance(token, str) else bytes.fromhex(token["bytes"])
