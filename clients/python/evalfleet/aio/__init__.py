"""The client for event loops: ``AsyncFleet`` has what ``evalfleet.fleet.Fleet`` has, to be awaited.

from evalfleet.aio import AsyncFleet

async with AsyncFleet.connect() as fleet:
    verdict = await fleet.safety.classify([("user", "How do I bake bread?")])
    async for index, outcome in fleet.safety.classify_many(conversations):
        ...
"""

from evalfleet.aio.fleet import AsyncFleet

__all__ = ["AsyncFleet"]
