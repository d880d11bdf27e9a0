"""Settings that every service process reads from the environment; services add their own by subclassing."""

from pathlib import Path
from typing import Literal

from evalfleet.window import LONGEST_STREAM_SECONDS
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.runtime.security.settings import SecuritySettings
from services.runtime.telemetry.setup import DEFAULT_RATIO

ENV_PREFIX = "EVALFLEET_"


class ServiceSettings(SecuritySettings):
    """Where a service listens, how much it takes on at once, and how it stops.

    Every field is read from ``EVALFLEET_<FIELD>``. A service subclasses this, sets its default port and adds fields.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field(
        "127.0.0.1", description="Address to listen on; beyond loopback it needs TLS (docs/security.md).", min_length=1
    )
    port: int = Field(0, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    metrics_port: int = Field(0, ge=0, le=65535, description="HTTP port of /metrics (Prometheus); 0 turns it off.")
    ready_file: Path | None = Field(
        None, description="File that receives the bound address (host:port) once the service is serving."
    )
    parent_pid: int | None = Field(
        None, gt=0, description="Process to watch: when it ends, the service drains and ends too."
    )

    default_deadline_seconds: float = Field(
        60.0, gt=0, description="Deadline, in seconds, of calls that come without one."
    )
    max_message_bytes: int = Field(16 * 1024 * 1024, ge=1024, description="Largest message in bytes, received or sent.")
    max_streams_per_connection: int = Field(
        512,
        ge=1,
        description="Calls open at once on one connection, of all methods; further ones wait at the client. More than "
        "a method's places and queue, so that whoever asks too much still hears so.",
    )
    max_concurrent_calls: int = Field(64, ge=1, description="Calls handled at once, per method.")
    max_queued_calls: int = Field(
        256,
        ge=0,
        description="Calls that wait for a place, per method, with turns fair by caller; of more than that, the caller "
        "who has most is told to come back later.",
    )

    drain_delay_seconds: float = Field(
        0.5, ge=0, description="Seconds between NOT_SERVING and refusing calls, for balancers to notice."
    )
    drain_grace_seconds: float = Field(
        30.0, ge=0, description="Seconds that calls in flight get to finish when the service stops."
    )
    max_connection_age_seconds: float = Field(
        300.0,
        ge=1,
        description="Connections are renewed after this many seconds, ±10 %, so that clients find new replicas.",
    )
    max_connection_grace_seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds that calls in flight get to finish when their connection is renewed; default: an hour, or "
        "the longest call that the service allows, if that is longer.",
    )
    readiness_interval_seconds: float = Field(
        2.0,
        gt=0,
        description="Seconds between two readiness checks of a service's dependencies; at most half a second while "
        "one is away.",
    )

    trace_ratio: float = Field(
        DEFAULT_RATIO,
        ge=0,
        le=1,
        description="Share of the traces that begin here which are recorded; where a caller is traced, the caller "
        "decides. Spans go where OTEL_EXPORTER_OTLP_ENDPOINT says and into the trace file; without either, nowhere.",
    )
    trace_file: Path | None = Field(
        None, description="File that receives spans as lines of OTLP/JSON; several processes may share it."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line to log.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json: one object per line; console: for people; auto: console on a terminal, else json."
    )

    @property
    def connection_grace_seconds(self) -> float:
        """``max_connection_grace_seconds``, or as long as any call lasts: of our clients, or by a limit of the service.

        What is cut for the age of its connection alone has been computed in vain.
        """
        if self.max_connection_grace_seconds is not None:
            return self.max_connection_grace_seconds
        limits = [float(value) for name, value in self if name.endswith("_timeout_seconds")]
        return max(LONGEST_STREAM_SECONDS, self.default_deadline_seconds, *limits)
