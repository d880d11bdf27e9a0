"""Who may look: a bearer token for programs, and for browsers a cookie that the token was exchanged for."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE: Final = "evalfleet_dashboard"
SIGN_IN_PATH: Final = "/sign-in"
HEALTH_PATH: Final = "/healthz"
OPEN_PATHS: Final = frozenset({SIGN_IN_PATH, HEALTH_PATH})
SIGN_OUT_PATH: Final = "/sign-out"
_MOST_DIGITS: Final = 12
_COOKIE_SECONDS: Final = 12 * 3600


class Access:
    """Tells requests of those who have the token from others; keeps nothing, so that it survives a restart.

    Args:
        token: the shared secret.
        is_https: whether cookies are for HTTPS alone.
    """

    def __init__(self, token: str, *, is_https: bool) -> None:
        self._token = token.encode()
        self._is_https = is_https

    def is_token(self, given: str) -> bool:
        """Whether this is the token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(given.encode(), self._token)

    def may_look(self, connection: HTTPConnection) -> bool:
        """Whether a request has the token or the cookie."""
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(given.strip())
        ends, _, _ = connection.cookies.get(COOKIE, "").partition(".")
        if not ends.isascii() or not ends.isdigit() or len(ends) > _MOST_DIGITS or int(ends) < time.time():
            return False
        return hmac.compare_digest(connection.cookies[COOKIE].encode(), self._cookie(int(ends)).encode())

    def signed_in(self, path: str) -> Response:
        """Send a browser on to a page with the cookie."""
        response = RedirectResponse(local_path(path), status_code=303)
        response.set_cookie(
            COOKIE,
            self._cookie(int(time.time()) + _COOKIE_SECONDS),
            max_age=_COOKIE_SECONDS,
            httponly=True,
            # Links from elsewhere may lead here: all pages only read.
            samesite="lax",
            secure=self._is_https,
        )
        return response

    def _cookie(self, ends: int) -> str:
        """What a browser keeps: no token, and worth nothing once its time, in seconds since 1970, is over."""
        signed = hmac.new(self._token, b"evalfleet dashboard session until %d" % ends, hashlib.sha256)
        return f"{ends}.{signed.hexdigest()}"


def local_path(path: str) -> str:
    """Return a path of ours, never somebody else's site: two slashes, of either kind, begin one."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


def signed_out() -> Response:
    """Send a browser to the form, without its cookie."""
    response = RedirectResponse(SIGN_IN_PATH, status_code=303)
    response.delete_cookie(COOKIE)
    return response


class KnownHosts:
    """Refuses requests to a name that is not ours, but for health: probes call by address."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._checked = TrustedHostMiddleware(app, allowed_hosts=names, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the pages answer."""
        app = self._app if scope["type"] == "http" and scope["path"] == HEALTH_PATH else self._checked
        await app(scope, receive, send)


class RequireToken:
    """Refuses whoever has no token: browsers are sent to the form, programs get 401."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the pages answer."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._access.may_look(HTTPConnection(scope)):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        response: Response
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            response = RedirectResponse(f"{SIGN_IN_PATH}?next={quote(wanted, safe='')}", status_code=303)
        else:
            response = PlainTextResponse(
                "a token is needed: Authorization: Bearer TOKEN\n", 401, {"WWW-Authenticate": "Bearer"}
            )
        await response(scope, receive, send)
