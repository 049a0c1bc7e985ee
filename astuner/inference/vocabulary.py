"""What each token of a tokenizer stands for, as JSON: so that ids can be read without it.

A token may hold only a part of a character, so pieces are bytes. Owns no files.
"""

from collections.abc import Iterable
from typing import Any

from astuner.inference.encoding import Encoding
from astuner.inference.token_bytes import spelled_bytes

VOCABULARY_FORMAT = 1
_SPACE = "\u2581"
"""How SentencePiece spells a space."""


def vocabulary_to_record(tokenizer: Any) -> dict[str, Any]:
    """The pieces of a Hugging Face tokenizer by their ids, and which of them are no text.

    A piece that is valid UTF-8 stands as text, any other as its bytes in hexadecimal digits. The
    pieces of consecutive ids joined are what the tokenizer decodes these to, but for a space that
    SentencePiece puts before a text.
    """
    added = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items()}
    tokens = [
        added[id_] if id_ in added else _text_or_bytes(piece)
        for id_, piece in enumerate(_pieces(tokenizer))
    ]
    special = sorted({*added, *tokenizer.all_special_ids})
    return {"format": VOCABULARY_FORMAT, "tokens": tokens, "special": special}


def _text_or_bytes(piece: bytes) -> str | dict[str, str]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return {"bytes": piece.hex(" ")}


def _pieces(tokenizer: Any) -> Iterable[bytes]:
    size = len(tokenizer)
    spelled = [token or "" for token in tokenizer.convert_ids_to_tokens(list(range(size)))]
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    spelling = "" if decoder is None else decoder.__getstate__().decode()
    if '"ByteLevel"' in spelling:
        return (spelled_bytes(token) or token.encode() for token in spelled)
    if '"ByteFallback"' in spelling or '"Metaspace"' in spelling:
        return map(_sentencepiece_bytes, spelled)
    # Other spellings are not known here; one by one, this takes seconds for a large vocabulary.
    encoding = Encoding(tokenizer)
    return (encoding.token_bytes(id_) or token.encode() for id_, token in enumerate(spelled))


def _sentencepiece_bytes(token: str) -> bytes:
    # Of the byte alphabet, which stands for other bytes in byte-level BPE, only <0xE2> is meant.
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return (is_byte and spelled_bytes(token)) or token.replace(_SPACE, " ").encode()
