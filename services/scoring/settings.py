"""Settings of the scoring service, read from the environment."""

from services.runtime.settings import ServiceSettings


class ScoringSettings(ServiceSettings):
    """The scoring service needs nothing beyond what every service needs."""
