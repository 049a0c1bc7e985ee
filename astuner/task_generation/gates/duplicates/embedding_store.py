"""Vectors on disk, by text: each is computed, and paid for, once.

One file for each model, to which records of one length are appended: the digest of the text, the
vector, a checksum. Whatever is killed while it writes leaves at most a torn record, which is cut
off when the file is opened for writing again; a damaged one counts as none.
"""

import fcntl
import hashlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy

from astuner.errors import ConfigError

_DIGEST_BYTES = 16
_CHECKSUM_BYTES = 4
_NUMBER = numpy.dtype("<f4")
_LENGTH = numpy.dtype("<u4")
"""First in the file: how many numbers a vector has."""


class EmbeddingStore:
    """The vectors of one model in one folder; several processes may append together."""

    def __init__(self, folder: Path, *, identity: str) -> None:
        """`identity` is equal for models that give equal vectors. Raises ConfigError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "task_reader.data_generation.filter.params.db_path = "
                f"{str(folder)!r}: the folder cannot be made: {error.strerror}; name another one"
            ) from error
        self._path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.vectors"
        self._vectors = self._read()

    def get(self, text: str) -> numpy.ndarray | None:
        """None where it was never computed."""
        return self._vectors.get(_digest(text))

    def keep(self, vectors: Mapping[str, numpy.ndarray]) -> None:
        """Append, and know from now on. Vectors of a model have one length."""
        named = {_digest(text): vector.astype(_NUMBER) for text, vector in vectors.items()}
        lengths = {len(vector) for vector in (*named.values(), *list(self._vectors.values())[:1])}
        if len(lengths) > 1:
            raise ConfigError(
                f"{self._path}: the embedding model gives vectors of {sorted(lengths)} numbers; it "
                "is another one by now: name another filter.params.db_path"
            )
        with open(self._path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            length = lengths.pop()
            _cut_torn_record(file.fileno(), length)
            if not os.fstat(file.fileno()).st_size:
                file.write(numpy.array(length, dtype=_LENGTH).tobytes())
            file.write(b"".join(_record(digest, vector) for digest, vector in named.items()))
            file.flush()
            os.fsync(file.fileno())
        self._vectors.update(named)

    def _read(self) -> dict[bytes, numpy.ndarray]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        if len(content) < _LENGTH.itemsize:
            return {}
        length = int(numpy.frombuffer(content, dtype=_LENGTH, count=1)[0])
        size = _record_bytes(length)
        vectors = {}
        for begin in range(_LENGTH.itemsize, len(content) - size + 1, size):
            body, checksum = content[begin : begin + size - 4], content[begin + size - 4 :][:4]
            if zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little") == checksum:
                vector = numpy.frombuffer(body, dtype=_NUMBER, offset=_DIGEST_BYTES)
                vectors[body[:_DIGEST_BYTES]] = vector
        return vectors


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES]


def _record_bytes(length: int) -> int:
    return _DIGEST_BYTES + length * _NUMBER.itemsize + _CHECKSUM_BYTES


def _record(digest: bytes, vector: numpy.ndarray) -> bytes:
    body = digest + vector.tobytes()
    return body + zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little")


def _cut_torn_record(file: int, length: int) -> None:
    size = os.fstat(file).st_size
    if size < _LENGTH.itemsize:
        os.ftruncate(file, 0)
    elif torn := (size - _LENGTH.itemsize) % _record_bytes(length):
        os.ftruncate(file, size - torn)
