"""``python -m services.safety``: serve until told to stop."""

from services.runtime.entry import run_service
from services.safety.settings import SafetySettings
from services.safety.wiring import wire

if __name__ == "__main__":
    run_service("safety", SafetySettings, wire)
