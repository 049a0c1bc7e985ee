"""The bytes of tokens that hold a part of a character, from how the tokenizer spells them."""

import functools
import re

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


def spelled_bytes(token: str) -> bytes | None:
    """Bytes of a token as its vocabulary has it; None for a spelling that is not known.

    Known are byte-level BPE (Radford et al. 2019) and the byte fallback of SentencePiece.
    """
    fallback = _BYTE_FALLBACK.fullmatch(token)
    if fallback:
        return bytes.fromhex(fallback[1])
    alphabet = _alphabet()
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    return None


@functools.cache
def _alphabet() -> dict[str, int]:
    """Of byte-level BPE: printable bytes stand for themselves, the others for U+0100 onwards."""
    printable = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }
