"""Capital won by betting against a claimed mean: large only where the claim is wrong."""

from typing import Final

import numpy as np

from services.aggregation.sequential.draws import Values

MOST_AT_STAKE: Final = 0.95


def log_growth(won: Values, room: Values, variance: Values, gaps: Values) -> Values:
    """Return the logarithms of the factors by which bets on a mean beyond a claim change the capital.

    Under «the mean is at most m», Π (1 + λ_t (Z_t − m)) is a test supermartingale for any λ_t ≥ 0 that follows from the
    past and keeps it positive (Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, JRSS-B
    86, 2024). λ = d / (s² + d²) is close to the best bet if the mean is d above the claim and s² is the increment's
    variance.

    Args:
        won: Z − m of each draw for bets that the mean is above the claim, m − Z for bets that it is below, [n].
        room: how much can be lost at most, m − low or high − m, [n].
        variance: s², [n].
        gaps: d, [gaps].

    Returns:
        [n, gaps].
    """
    stakes = np.minimum(gaps[None, :] / (variance[:, None] + gaps[None, :] ** 2), most_at_stake(room)[:, None])
    return np.asarray(np.log1p(stakes * won[:, None]))


def most_at_stake(room: Values) -> Values:
    """Return the largest λ that cannot lose everything; where nothing can be lost, only the numbers bound it."""
    return np.asarray(MOST_AT_STAKE / np.maximum(room, 1e-9))


def log_mean_exp(values: Values, log_weights: Values) -> Values:
    """Return log of the weighted mean of the exponentials over the last axis, without overflow.

    −∞ where all bets have lost everything, as those on certain violations do at the first item that is none.
    """
    shifted = values + log_weights
    largest = np.maximum(shifted.max(axis=-1), np.finfo(np.float64).min)
    with np.errstate(divide="ignore"):
        return np.asarray(largest + np.log(np.exp(shifted - largest[..., None]).sum(axis=-1)))


def running_sums(state: Values, values: Values) -> Values:
    """Return the state after each row is added: the same to the last bit however the rows are cut into calls."""
    return np.asarray(np.add.accumulate(np.concatenate([state[None], values]))[1:])
