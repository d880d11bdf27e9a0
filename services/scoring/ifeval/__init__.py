"""IFEval's verifiable instructions (Zhou et al., arXiv 2311.07911), each a check of a response."""

from services.scoring.ifeval.arguments import ArgumentError
from services.scoring.ifeval.following import follows, follows_loosely
from services.scoring.ifeval.registry import CHECKS

__all__ = ["CHECKS", "ArgumentError", "follows", "follows_loosely"]
