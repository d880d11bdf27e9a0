"""What a machine has and lacks for EvalFleet; shown by `evalfleet doctor`, needs nothing but the library."""

from evalfleet.doctor.extras import missing_packages
from evalfleet.doctor.findings import CHECK_GROUP, Check, Finding, FindingState

__all__ = ["CHECK_GROUP", "Check", "Finding", "FindingState", "missing_packages"]
