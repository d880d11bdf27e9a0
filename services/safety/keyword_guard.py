"""A guard that looks for what a blocklist names, and for nothing else."""

import asyncio
from collections.abc import Sequence
from typing import Final

from services.safety.blocklist import MATCH_LIMIT_SECONDS, Blocklist
from services.safety.judgement import (
    Aspect,
    CategoryScore,
    Decision,
    GuardDescription,
    GuardReference,
    JudgedTurn,
    Verdict,
)

ENGINE: Final = "blocklist"
TEMPLATE: Final = "judged-turn-normalised/2"
TIMEOUT_REASON: Final = "BLOCKLIST_TIMEOUT"


class KeywordGuard:
    """Implements ``Guard`` on a blocklist. SAFE means that no rule matched; it gives no probabilities.

    Args:
        name: its resource name, ``guards/{guard}``.
        description: a sentence.
        blocklist: what to look for.
        content_digest: SHA-256 (hex) of the blocklist file.
        template_digest: SHA-256 (hex) of how texts are normalised.
        limit_seconds: longest time for one text.
    """

    def __init__(
        self,
        name: str,
        description: str,
        blocklist: Blocklist,
        *,
        content_digest: str,
        template_digest: str,
        limit_seconds: float = MATCH_LIMIT_SECONDS,
    ) -> None:
        self._blocklist = blocklist
        self._limit_seconds = limit_seconds
        self._about = GuardDescription(
            reference=GuardReference(name, content_digest, template_digest, "", ENGINE, ""),
            description=description,
            aspects=(Aspect.PROMPT, Aspect.RESPONSE),
            categories=blocklist.categories,
            default_threshold=None,
            max_tokens=None,
        )

    @property
    def about(self) -> GuardDescription:
        """What it is and can do."""
        return self._about

    async def is_ready(self) -> bool:
        """Return true: it needs nothing."""
        return True

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Look through each turn, away from the event loop."""
        return [await asyncio.to_thread(self._judge_one, turn) for turn in turns]

    def _judge_one(self, turn: JudgedTurn) -> Verdict:
        reference = self._about.reference
        try:
            found = self._blocklist.find(turn.content, limit_seconds=self._limit_seconds)
        except TimeoutError:
            return Verdict(Decision.ERROR, reference, None, error_reason=TIMEOUT_REASON)
        categories = tuple(CategoryScore(category, None) for category in found)
        return Verdict(Decision.UNSAFE if found else Decision.SAFE, reference, None, categories=categories)
