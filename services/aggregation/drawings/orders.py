"""What the order of a drawing depends on, and digests that commit to it."""

import hashlib
import json
from collections.abc import Sequence

from services.aggregation.drawings.records import Batch, DrawingSpec


def order_seed(spec: DrawingSpec) -> int:
    """Return the seed of the random numbers behind the draws, from 0 to 2^63 − 1.

    Predictions must not depend on the random numbers of the draws that they are held against, or the engine's
    expectation E[Z_t | past] = μ fails: a run with the order of an earlier, early-stopped one would meet first exactly
    the items that its predictions were fitted on. So an order that history may steer has random numbers of its own for
    each model, and history never holds a run of the same order (``history``). Uniform orders depend on the seed alone,
    so that all models meet the same items first.
    """
    parts = [spec.seed, spec.data_digest, spec.metric]
    if not spec.is_uniform:
        parts.append(spec.model_digest or spec.model)
    text = json.dumps(["evalfleet.drawing.v1", *parts], ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def order_digest(seed: int, item_ids: Sequence[str]) -> str:
    """Return SHA-256 (hex) over an order's seed and the item ids in canonical order."""
    digest = hashlib.sha256(f"evalfleet.order.v1:{seed}:{len(item_ids)}".encode())
    for item in item_ids:
        encoded = item.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.hexdigest()


def batch_digest(before: str, batch: Batch) -> str:
    """Return SHA-256 (hex) over a batch and the digest before it."""
    digest = hashlib.sha256(f"{before}:{batch.index}:{batch.first_draw_index}:{len(batch.positions)}".encode())
    digest.update(batch.positions.astype("<i8").tobytes())
    for part in (batch.predictions, batch.weights, batch.variances):
        digest.update(b"none" if part is None else part.astype("<f4").tobytes())
    return digest.hexdigest()
