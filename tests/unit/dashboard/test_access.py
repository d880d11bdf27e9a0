"""Nobody looks without the token, and no page lets anybody else in."""

import time

import pytest
from evalfleet.fleet import Fleet
from starlette.testclient import TestClient

from services.dashboard.access import COOKIE, local_path
from services.dashboard.application import make_application
from services.dashboard.settings import DashboardSettings
from services.runtime.errors import StartupError
from tests.unit.dashboard.conftest import TOKEN

PATHS = ("/", "/runs/step-100", "/leaderboard", "/outputs", "/guards", "/costs", "/nowhere")


@pytest.mark.parametrize("path", PATHS)
def test_browsers_are_sent_to_the_form_and_programs_refused(stranger: TestClient, path: str) -> None:
    sent = stranger.get(path, headers={"accept": "text/html"})
    assert (sent.status_code, sent.headers["location"].split("?")[0]) == (303, "/sign-in")
    assert stranger.get(path).status_code == 401
    for wrong in ("Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer ", "Bearer \u00e9"):
        assert stranger.get(path, headers={b"authorization": wrong.encode()}).status_code == 401


def test_a_program_looks_with_its_token(stranger: TestClient) -> None:
    assert stranger.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_form_gives_a_cookie_that_is_not_the_token(stranger: TestClient) -> None:
    assert stranger.post("/sign-in", data={"token": "wrong-wrong-wrong"}).status_code == 403
    answer = stranger.post("/sign-in?next=/costs", data={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/costs")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    assert stranger.get("/").status_code == 200
    stranger.cookies.clear()
    for forged in ("0" * 64, f"99999999999.{'0' * 64}", ".", "x.y", f"{'9' * 400}.0"):
        assert stranger.get("/", headers={"cookie": f"{COOKIE}={forged}"}).status_code == 401


def test_a_cookie_ends_by_itself_and_by_signing_out(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = browser.cookies[COOKIE]
    out = browser.get("/sign-out")
    assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
    assert browser.get("/").status_code == 401
    assert browser.get("/", headers={"cookie": f"{COOKIE}={kept}"}).status_code == 200
    tomorrow = time.time() + 86_400
    monkeypatch.setattr("services.dashboard.access.time.time", lambda: tomorrow)
    assert browser.get("/", headers={"cookie": f"{COOKIE}={kept}"}).status_code == 401


def test_the_printed_link_signs_in(stranger: TestClient) -> None:
    answer = stranger.get(f"/sign-in?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize(
    "path", ["//evil.example/", "https://evil.example/", "/\\evil.example", "", "javascript:alert(1)"]
)
def test_nobody_is_sent_elsewhere(stranger: TestClient, path: str) -> None:
    answer = stranger.post("/sign-in", params={"next": path}, data={"token": TOKEN})
    assert answer.headers["location"] == "/"
    assert local_path(path) == "/"


def test_a_name_that_is_not_ours_is_refused(browser: TestClient) -> None:
    assert browser.get("/", headers={"host": "evil.example"}).status_code == 400
    assert browser.get("/healthz", headers={"host": "10.1.2.3"}).status_code == 200


def test_pages_only_read_and_keep_to_themselves(browser: TestClient) -> None:
    for path in ("/", "/leaderboard", "/costs"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert browser.request(method, path).status_code == 405
    headers = browser.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


def test_cookies_are_for_https_where_it_is_spoken(fleet: Fleet) -> None:
    with TestClient(make_application(fleet, TOKEN, is_https=True), base_url="https://localhost") as client:
        answer = client.post("/sign-in", data={"token": TOKEN}, follow_redirects=False)
    assert "Secure" in answer.headers["set-cookie"]


def test_others_get_in_by_token_and_tls_alone() -> None:
    assert len(DashboardSettings().checked_token()) >= 16
    assert DashboardSettings(token="x" * 16).checked_token() == "x" * 16
    for given, reason in (
        ({"token": "short"}, "TOKEN_INVALID"),
        ({"host": "0.0.0.0"}, "TOKEN_REQUIRED"),
        ({"host": "0.0.0.0", "token": "x" * 16}, "TLS_REQUIRED"),
        ({"token_file": "/nowhere/token"}, "TOKEN_INVALID"),
        ({"token_file": "/dev/null"}, "TOKEN_INVALID"),
        ({"host": "0.0.0.0", "token": "x" * 16, "behind_tls_proxy": True}, "HOSTS_REQUIRED"),
    ):
        with pytest.raises(StartupError) as refused:
            DashboardSettings(**given).checked_token()
        assert refused.value.reason == reason
    assert DashboardSettings(host="0.0.0.0", token="x" * 16, behind_tls_proxy=True, allowed_hosts=["e"]).checked_token()
