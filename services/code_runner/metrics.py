"""What the code runner counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.sandbox.contract import Ending, Run

_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)


class CodeRunnerMetrics:
    """Programs by how they ended, how long they took, and whether they can be contained.

    Args:
        registry: receives them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._programs = Counter(
            "evalfleet_code_runner_programs",
            "Programs that were run, by how they ended.",
            ["ending"],
            registry=registry,
        )
        for ending in Ending:
            self._programs.labels(ending.value)
        self._seconds = Histogram(
            "evalfleet_code_runner_program_seconds",
            "Wall-clock time of programs.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._available = Gauge(
            "evalfleet_code_runner_sandbox_available",
            "Whether programs can be contained here: 1 or 0.",
            registry=registry,
        )

    def count(self, run: Run) -> None:
        """Count a program that ended."""
        self._programs.labels(run.ending.value).inc()
        self._seconds.observe(run.seconds)

    def show(self, *, is_available: bool) -> None:
        """Show whether programs can be contained."""
        self._available.set(is_available)
