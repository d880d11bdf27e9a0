"""The dashboard as an ASGI application: which page answers which path. All of them only read."""

from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

from evalfleet.errors import (
    EvalFleetError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from evalfleet.fleet import Fleet
from evalfleet.pages.markup import joined, tag
from evalfleet.pages.page import Section
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.dashboard.access import (
    HEALTH_PATH,
    SIGN_IN_PATH,
    SIGN_OUT_PATH,
    Access,
    KnownHosts,
    RequireToken,
    signed_out,
)
from services.dashboard.frame import framed
from services.dashboard.known_runs import KnownRuns
from services.dashboard.pages import Pages

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")
_LONGEST_FORM_BYTES = 4096
_STATUS = {NotFoundError: 404, InvalidArgumentError: 400, UnavailableError: 503}


def make_application(
    fleet: Fleet,
    token: str,
    *,
    is_https: bool = False,
    allowed_hosts: tuple[str, ...] = (),
    records: Path | None = None,
) -> Starlette:
    """Make the application.

    Args:
        fleet: whose runs are shown; its owner closes it.
        token: whoever looks must have it.
        is_https: browsers speak HTTPS to it, or to the proxy in front.
        allowed_hosts: names that browsers may call it by, beside those of this machine's loopback; a page of
            somebody else's that gives its own name our address is refused.
        records: folder of the guards' quality records.
    """
    access = Access(token, is_https=is_https)
    pages = Pages(KnownRuns(fleet), records)
    return Starlette(
        routes=[
            Route("/", pages.runs),
            Route("/runs/{name}", pages.run),
            Route("/leaderboard", pages.leaderboard),
            Route("/outputs", pages.outputs),
            Route("/guards", pages.guards),
            Route("/costs", pages.costs),
            Route(SIGN_IN_PATH, partial(_sign_in, access), methods=["GET", "POST"]),
            Route(SIGN_OUT_PATH, _sign_out),
            Route(HEALTH_PATH, _healthy),
        ],
        middleware=[
            Middleware(KnownHosts, names=[*_LOOPBACK_NAMES, *allowed_hosts]),
            Middleware(RequireToken, access=access),
        ],
        exception_handlers={EvalFleetError: _fleet_error, HTTPException: _http_error},
    )


async def _healthy(_request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _sign_out(_request: Request) -> Response:
    return signed_out()


async def _sign_in(access: Access, request: Request) -> Response:
    """Exchange the token for a cookie: from the form, or from the link that was printed at the start."""
    given = request.query_params.get("token", "")
    wanted = request.query_params.get("next", "/")
    if request.method == "POST":
        if int(request.headers.get("content-length") or _LONGEST_FORM_BYTES + 1) > _LONGEST_FORM_BYTES:
            return PlainTextResponse("too long\n", 413)
        given = _field(await request.body())
    if given and access.is_token(given):
        return access.signed_in(wanted)
    # Password managers want to know whose password it is.
    whose = tag("input", type="text", name="username", value="evalfleet", autocomplete="username", hidden=True)
    form = tag(
        "form",
        whose,
        tag(
            "label",
            "Token",
            tag("input", type="password", name="token", autocomplete="current-password", required=True),
        ),
        tag("button", "Sign in", type="submit"),
        method="post",
        class_="choice",
    )
    words = "This is not the token." if given else "`evalfleet dashboard` printed it when it was started."
    section = Section("sign-in", "Who is looking?", joined(tag("p", words, role="alert" if given else None), form))
    return framed("Sign in", [section], status=403 if given else 200)


def _field(body: bytes) -> str:
    return next(iter(parse_qs(body.decode("utf-8", "replace")).get("token", [])), "")


async def _fleet_error(_request: Request, error: Exception) -> Response:
    """Show what the fleet said."""
    assert isinstance(error, EvalFleetError)
    if isinstance(error, UnauthenticatedError | PermissionDeniedError):
        status = 502
    else:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 502)
    content = joined(tag("p", error.message), tag("p", tag("code", error.reason), class_="small"))
    return framed("The fleet cannot say", [Section("error", "What it said", content)], status=status)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    section = Section("error", "There is nothing here", tag("p", tag("a", "All runs", href="/")))
    return framed(f"{error.status_code} {error.detail}", [section], status=error.status_code)
