"""How a cached value is written down, so that damage of any kind is noticed when it is read.

An entry is ``magic(4) flags(1) checksum(32) body``. The checksum is SHA-256 over the key, the flags and the body, so an
entry that was cut short, altered, or found under the wrong key does not pass. Bodies above 512 bytes are deflated.
"""

import hashlib
import hmac
import zlib
from typing import Final

_MAGIC: Final = b"EFC1"
_PLAIN: Final = b"\x00"
_DEFLATED: Final = b"\x01"
_CHECKSUM_BYTES: Final = 32
_HEADER_BYTES: Final = len(_MAGIC) + 1 + _CHECKSUM_BYTES
_DEFLATE_ABOVE_BYTES: Final = 512
_DEFLATE_LEVEL: Final = 1
_LARGEST_VALUE_BYTES: Final = 256 * 1024 * 1024


class CorruptEntryError(Exception):
    """The bytes are no entry of this key."""


def encode_entry(key: bytes, value: bytes) -> bytes:
    """Write down ``value`` for ``key``."""
    flags, body = _PLAIN, value
    if len(value) > _DEFLATE_ABOVE_BYTES:
        deflated = zlib.compress(value, _DEFLATE_LEVEL)
        if len(deflated) < len(value):
            flags, body = _DEFLATED, deflated
    return _MAGIC + flags + _checksum(key, flags, body) + body


def decode_entry(key: bytes, entry: bytes) -> bytes:
    """Read what ``encode_entry`` wrote for the same key.

    Raises:
        CorruptEntryError: the entry is damaged, of another version, or of another key.
    """
    if len(entry) < _HEADER_BYTES or entry[: len(_MAGIC)] != _MAGIC:
        raise CorruptEntryError("no header")
    flags = entry[len(_MAGIC) : len(_MAGIC) + 1]
    checksum, body = entry[len(_MAGIC) + 1 : _HEADER_BYTES], entry[_HEADER_BYTES:]
    if not hmac.compare_digest(checksum, _checksum(key, flags, body)):
        raise CorruptEntryError("the checksum differs")
    if flags == _PLAIN:
        return body
    try:
        inflater = zlib.decompressobj()
        value = inflater.decompress(body, _LARGEST_VALUE_BYTES)
    except zlib.error as error:
        raise CorruptEntryError(str(error)) from error
    if not inflater.eof:
        raise CorruptEntryError("larger than any value")
    return value


def _checksum(key: bytes, flags: bytes, body: bytes) -> bytes:
    return hashlib.sha256(_MAGIC + len(key).to_bytes(4, "big") + key + flags + body).digest()
