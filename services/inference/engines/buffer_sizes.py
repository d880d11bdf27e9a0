"""How much room the buffers of running rows get."""

_TOKEN_SHARE = 8
_FEWEST_SPARE_TOKENS = 64
_ROW_SHARE = 4


def token_capacity(needed: int, old: int) -> int:
    """Return how many tokens a buffer of ``old`` should hold that is allocated anew.

    An eighth to spare: copying is paid for by so many steps, each of which reads the whole buffer anyway. What was
    needed once, by rows that have left, does not count; but a buffer that is large enough does not grow.
    """
    roomy = needed + max(_FEWEST_SPARE_TOKENS, needed // _TOKEN_SHARE)
    return min(roomy, old) if needed <= old else roomy


def row_capacity(needed: int, old: int) -> int:
    """Return how many rows a buffer of ``old`` (0: the first one) should hold that is allocated anew."""
    roomy = needed + (needed // _ROW_SHARE if old else 0)
    return min(roomy, old) if needed <= old else roomy
