"""Digests of the settings that decide a guard's verdicts."""

import hashlib
import json
from typing import Any


def json_digest(content: Any) -> str:
    """Return the SHA-256 (hex) of JSON content; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
