"""How long texts are kept: once each, compressed, under a digest of their content."""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.aggregation.errors import InvalidResultError
from services.runtime.errors import FieldViolation

SHORTEST_KEPT_APART: Final = 200
"""Bytes of UTF-8. A shorter text stays in its result's row: its own row, with digest and indexes, would be larger."""

# Of SHA-256: short enough for an index, and 2^80 digests before two texts of somebody who tries share one.
_DIGEST_BYTES: Final = 20
_RAW, _DEFLATED = b"r", b"z"
# Higher levels take twice the time for a thirtieth less.
_LEVEL: Final = 1
# A small window is set up in a fifth of the time, which is most of what compressing a short text takes.
_SMALL_TEXT_BYTES: Final = 4096
_SMALL_WINDOW: Final = (_LEVEL, zlib.DEFLATED, 12, 5)


@dataclass(frozen=True, slots=True)
class StoredText:
    """A text as it was read: one of a row of its own, or one in its result's row.

    Attributes:
        text_id: of the row of its own; ``None``: it is ``inline``.
        inline: the text, empty with ``text_id``.
        packed: what that row holds; ``None``: retention has removed it.
        digest: of the text in a row of its own, where that was read as well.
    """

    text_id: int | None
    inline: str
    packed: bytes | None
    digest: bytes | None = None

    @property
    def is_pruned(self) -> bool:
        """Whether retention has removed the text."""
        return self.text_id is not None and self.packed is None

    @property
    def content_key(self) -> bytes | str:
        """Equal for equal texts of one ledger, wherever they are kept, also for those that were removed since.

        Raises:
            ValueError: of a text in a row of its own the digest was not read.
        """
        if self.text_id is None:
            content = self.inline.encode()
            return self.inline if len(content) < SHORTEST_KEPT_APART else digest_of(content)
        if self.digest is None:
            raise ValueError("the digest of the text was not read")
        return self.digest

    def read(self) -> str:
        """Return the text; empty if it was removed."""
        if self.text_id is None:
            return self.inline
        return "" if self.packed is None else unpack(self.packed)


@dataclass(frozen=True, slots=True)
class LongTexts:
    """The long texts of some results, by digest, as UTF-8; and those of them that are packed already."""

    contents: Mapping[bytes, bytes]
    packed: Mapping[bytes, bytes]

    def pack(self, digest: bytes) -> bytes:
        """Return one of them as it is stored."""
        return self.packed.get(digest) or pack(self.contents[digest])


def encoded(field: str, text: str) -> bytes:
    """Return a text as UTF-8.

    Raises:
        InvalidResultError: it holds half of a surrogate pair, which no encoding of Unicode can write.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        problem = f"holds U+{ord(text[error.start]):04X} at {error.start}, half of a surrogate pair"
        raise InvalidResultError(
            f"nothing of these results was stored: {field} {problem}",
            field_violations=(FieldViolation(field, problem),),
        ) from error


def digest_of(content: bytes) -> bytes:
    """Return the digest of a text's UTF-8."""
    return hashlib.sha256(content).digest()[:_DIGEST_BYTES]


def pack(content: bytes) -> bytes:
    """Return a text's UTF-8 as it is stored."""
    if len(content) <= _SMALL_TEXT_BYTES:
        deflater = zlib.compressobj(*_SMALL_WINDOW)
        deflated = deflater.compress(content) + deflater.flush()
    else:
        deflated = zlib.compress(content, _LEVEL)
    return _DEFLATED + deflated if len(deflated) < len(content) else _RAW + content


def unpack(packed: bytes) -> str:
    """Read what ``pack`` wrote."""
    return (zlib.decompress(packed[1:]) if packed[:1] == _DEFLATED else packed[1:]).decode()
