"""Pages and opaque page tokens (AIP-158)."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.runtime.error_types import FieldViolation, InvalidArgumentError

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_DIGEST_BYTES = 8

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """One page of items in order; ``next_page_token`` is empty on the last page."""

    items: Sequence[ItemT]
    next_page_token: str


def checked_page_size(requested: int, *, default: int = DEFAULT_PAGE_SIZE, maximum: int = MAX_PAGE_SIZE) -> int:
    """Return the page size to use: the default for 0, the maximum for more than that.

    Raises:
        InvalidArgumentError: the request is negative.
    """
    if requested < 0:
        raise InvalidArgumentError(
            f"page_size must not be negative, got {requested}; leave it out for {default}",
            reason="INVALID_PAGE_SIZE",
            metadata={"page_size": str(requested)},
            field_violations=(FieldViolation("page_size", "must be 0 (the default) or positive"),),
        )
    return min(requested, maximum) if requested else default


def encode_page_token(cursor: str, *, scope: str) -> str:
    """Make the token that continues after ``cursor`` (the sort key of the last item shown).

    Args:
        cursor: any text; comes back from ``decode_page_token``.
        scope: what the list depends on (method, parent, filter, order); a token is refused under another scope.
    """
    payload = cursor.encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(_digest(payload, scope) + payload).rstrip(b"=").decode()


def decode_page_token(token: str, *, scope: str) -> str | None:
    """Return the cursor inside ``token``; ``None`` for the empty token of a first page.

    The digest finds mistakes (a cut token, another filter); it is no secret and protects nothing.

    Raises:
        InvalidArgumentError: the token is damaged or was made for another list.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, payload = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if digest == _digest(payload, scope):
            return payload.decode("utf-8", "surrogatepass")
    except (binascii.Error, UnicodeError):
        pass
    raise InvalidArgumentError(
        "page_token was not issued for this list; start again without page_token, and keep the other fields unchanged",
        reason="INVALID_PAGE_TOKEN",
        field_violations=(FieldViolation("page_token", "must come from the previous page of the same list"),),
    )


def paginate(
    items: Sequence[ItemT],
    *,
    key: Callable[[ItemT], str],
    page_size: int,
    page_token: str,
    scope: str,
    default: int = DEFAULT_PAGE_SIZE,
    maximum: int = MAX_PAGE_SIZE,
) -> Page[ItemT]:
    """Cut one page out of an in-memory list, ordered by ``key``.

    Items that come or go between two pages neither repeat nor hide others, because a token holds a key, not an offset.

    Args:
        items: in any order; keys must be unique.
        key: the text to order by.
        page_size: as the request gives it.
        page_token: as the request gives it.
        scope: see ``encode_page_token``.
        default: page size when the request gives none.
        maximum: larger requests are cut to this.

    Raises:
        InvalidArgumentError: negative size, or a token of another list.
    """
    size = checked_page_size(page_size, default=default, maximum=maximum)
    after = decode_page_token(page_token, scope=scope)
    ordered = sorted((item for item in items if after is None or key(item) > after), key=key)
    shown = ordered[:size]
    more = len(ordered) > size
    return Page(items=shown, next_page_token=encode_page_token(key(shown[-1]), scope=scope) if more else "")


def _digest(payload: bytes, scope: str) -> bytes:
    keyed = scope.encode("utf-8", "surrogatepass") + b"\0" + payload
    return hashlib.blake2b(keyed, digest_size=_DIGEST_BYTES).digest()
