"""Serves the dashboard with uvicorn until it is told to stop."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn
from evalfleet.fleet import Fleet

from services.dashboard.access import SIGN_IN_PATH
from services.dashboard.application import make_application
from services.dashboard.settings import DashboardSettings
from services.runtime.errors import StartupError
from services.runtime.log_setup import configure_logging

DRAIN_SECONDS = 5
"""How long pages that are being sent may take when the dashboard stops."""


def serve_dashboard(settings: DashboardSettings, fleet: Fleet, told: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: where, and who may look.
        fleet: whose runs are shown.
        told: gets the address to open in a browser, once it can be opened.

    Raises:
        StartupError: the settings do not fit together, or the port is taken.
    """
    token = settings.checked_token()
    configure_logging(level=settings.log_level, log_format=settings.log_format, service="dashboard", stream=sys.stderr)
    listening = _listen(settings.host, settings.port)
    port = listening.getsockname()[1]
    application = make_application(
        fleet,
        token,
        is_https=settings.has_tls,
        allowed_hosts=tuple(settings.allowed_hosts),
        records=settings.guard_records,
    )
    config = uvicorn.Config(
        application,
        log_config=None,
        log_level=settings.log_level.lower(),
        # Its lines would have the token that the printed link has.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        ssl_certfile=_file(settings.tls_certificate),
        ssl_keyfile=_file(settings.tls_key),
    )
    scheme = "https" if settings.tls_certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    # A token of their own is not printed: whoever set it knows it.
    query = "" if settings.token.get_secret_value() or settings.token_file else f"{SIGN_IN_PATH}?token={token}"
    told(f"{scheme}://{host}:{port}{query or '/'}")
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise StartupError(f"the dashboard cannot listen on {host}:{port}: {error}", reason="PORT_TAKEN") from error
    return listening


def _file(path: Path | None) -> str | None:
    return None if path is None else str(path)
