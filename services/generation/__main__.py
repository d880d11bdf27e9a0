"""``python -m services.generation``: serve until told to stop."""

from services.generation.settings import GenerationSettings
from services.generation.wiring import wire
from services.runtime.entry import run_service

if __name__ == "__main__":
    run_service("generation", GenerationSettings, wire)
