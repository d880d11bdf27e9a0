"""Policies: which guards judge, which hazards count from which probability on, and what becomes of errors."""

from services.safety.policies.applying import apply_policy, judged_whole
from services.safety.policies.catalogue import PolicyCatalogue
from services.safety.policies.policy import (
    Combination,
    ControversialHandling,
    ErrorHandling,
    Policy,
    PolicyHazard,
    TruncationHandling,
)

__all__ = [
    "Combination",
    "ControversialHandling",
    "ErrorHandling",
    "Policy",
    "PolicyCatalogue",
    "PolicyHazard",
    "TruncationHandling",
    "apply_policy",
    "judged_whole",
]
