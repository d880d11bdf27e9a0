"""Callers with keys of their own: a file holds the keys' hashes, and nobody can read a key out of it."""

import datetime
import hashlib
import hmac
import secrets
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.runtime.callers import CALLER_RULE, is_caller
from services.runtime.error_types import StartupError, UnauthenticatedError
from services.runtime.security.identity import Identity
from services.runtime.security.reloading import Reloaded
from services.runtime.security.roles import Role, read_roles

KEY_PREFIX: Final = "evalfleet-"
"""Before every key: tells it from other tokens, also to programs that look for secrets in the wrong places."""
_KEY_BYTES: Final = 32


class _CallerSpec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    roles: frozenset[Role]
    sha256: tuple[str, ...] = Field(min_length=1)
    expires: datetime.datetime | None = None

    @field_validator("roles", mode="before")
    @classmethod
    def _known_roles(cls, told: object) -> object:
        return read_roles([str(each) for each in told]) if isinstance(told, list) else told

    @field_validator("sha256")
    @classmethod
    def _digests(cls, told: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(each) != 64 or not set(each) <= set("0123456789abcdef") for each in told):
            raise ValueError("must be SHA-256 of keys, each 64 of 0-9 and a-f")
        return told

    @field_validator("expires")
    @classmethod
    def _with_zone(cls, told: datetime.datetime | None) -> datetime.datetime | None:
        if told is not None and told.tzinfo is None:
            raise ValueError("must say its time zone: 2027-01-01T00:00:00Z")
        return told


class _KeysSpec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    callers: Mapping[str, _CallerSpec] = Field(default_factory=dict)

    @field_validator("callers")
    @classmethod
    def _names(cls, told: Mapping[str, _CallerSpec]) -> Mapping[str, _CallerSpec]:
        for name in told:
            if not is_caller(name):
                raise ValueError(f"{name!r} must be {CALLER_RULE}")
        return told


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    identity: Identity


class CallerKeys:
    """The callers of a file, which is read again when it changes.

    An empty file is nobody; a damaged or missing one changes nothing.

    Raises:
        StartupError: FILE_UNREADABLE, CALLER_KEYS_INVALID.
    """

    def __init__(self, path: Path) -> None:
        self._keys = Reloaded([path], lambda: _read(path), name="caller_keys")

    def has(self, name: str) -> bool:
        """Whether a caller of this name has a key."""
        return any(each.identity.name == name for each in self._keys.current())

    def identify(self, key: str) -> Identity:
        """Return whose key it is.

        Raises:
            UnauthenticatedError: KEY_UNKNOWN, TOKEN_EXPIRED.
        """
        digest = hashlib.sha256(key.encode()).digest()
        found: Identity | None = None
        # All of them, in the same time whichever fits.
        for each in self._keys.current():
            if hmac.compare_digest(each.digest, digest):
                found = each.identity
        if found is None:
            raise UnauthenticatedError("this key is not known here; ask for another", reason="KEY_UNKNOWN")
        if found.ends_seconds <= time.time():
            raise UnauthenticatedError("this key has expired; ask for another", reason="TOKEN_EXPIRED")
        return found


def new_key() -> tuple[str, str]:
    """Make a key; return it and what a file of callers holds of it."""
    key = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    # Not a slow hash: nobody guesses 256 random bits.
    return key, hashlib.sha256(key.encode()).hexdigest()


def _read(path: Path) -> tuple[_Key, ...]:
    try:
        spec = _KeysSpec.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise _invalid(path, problems) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(path, str(error)) from None
    keys = []
    for name, caller in spec.callers.items():
        ends = float("inf") if caller.expires is None else caller.expires.timestamp()
        identity = Identity(name, caller.roles, ends)
        keys += [_Key(bytes.fromhex(each), identity) for each in caller.sha256]
    return tuple(keys)


def _invalid(path: Path, problem: str) -> StartupError:
    return StartupError(f"EVALFLEET_CALLER_KEYS={path}: {problem}", reason="CALLER_KEYS_INVALID")
