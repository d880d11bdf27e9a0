"""Seeds of the samples of one request."""

import hashlib


def sample_seed(seed: int, index: int) -> int:
    """Derive the seed of sample ``index`` from the request's seed.

    The first 8 bytes, big-endian and shifted right by one bit, of SHA-256 over the text
    ``evalfleet/sample-seed/1:{seed}:{index}``: from 0 to 2^63 - 1, independent of how many samples are asked for, so
    that asking for more of them keeps those one has.
    """
    text = f"evalfleet/sample-seed/1:{seed}:{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
