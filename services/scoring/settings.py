"""Settings of the scoring service, read from the environment."""

from pydantic import Field

from services.runtime.settings import ServiceSettings


class ScoringSettings(ServiceSettings):
    """The scoring service needs nothing beyond what every service needs."""

    port: int = Field(8103, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
