"""Run the scoring service: ``python -m services.scoring``."""

from services.runtime.entry import run_service
from services.scoring.settings import ScoringSettings
from services.scoring.wiring import wire

if __name__ == "__main__":
    run_service("scoring", ScoringSettings, wire)
