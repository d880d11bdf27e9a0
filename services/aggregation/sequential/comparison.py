"""Is one model better than another? Their differences on the same items are scores of their own."""

import numpy as np

from services.aggregation.sequential.draws import Values


def difference_scores(a: Values, b: Values) -> Values:
    """Return (b − a + 1) / 2 of each item: from 0 to 1, and one half where both score alike."""
    return np.asarray((b - a + 1) / 2)
