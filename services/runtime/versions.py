"""Which version of the services is installed."""

from importlib.metadata import PackageNotFoundError, version


def services_version() -> str:
    """Return the version of the services; ``unknown`` where they run without being installed."""
    try:
        return version("evalfleet-services")
    except PackageNotFoundError:
        return "unknown"
