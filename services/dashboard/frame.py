"""What all pages have around their content, and the headers that keep them to themselves."""

from collections.abc import Sequence
from importlib import resources
from typing import Final

from evalfleet.pages.markup import Child, Markup, joined, plain, tag
from evalfleet.pages.page import Section, page_script, page_style, script_digest, section_markup
from starlette.responses import HTMLResponse

from services.dashboard.access import SIGN_OUT_PATH

PLACES: Final = (
    ("/", "Runs"),
    ("/leaderboard", "Leaderboard"),
    ("/outputs", "Side by side"),
    ("/guards", "Guards"),
    ("/costs", "Costs"),
)
LIVE_SECONDS: Final = 3
_STYLE: Final = joined(page_style(), Markup((resources.files("services.dashboard") / "dashboard.css").read_text()))
_SCRIPTS: Final = (page_script(), Markup((resources.files("services.dashboard") / "dashboard.js").read_text()))
HEADERS: Final = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(script_digest, _SCRIPTS))}",
            "style-src 'unsafe-inline'",
            "connect-src 'self'",
            "img-src data:",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def framed(
    title: str,
    sections: Sequence[Section],
    *,
    place: str = "",
    header: Child = None,
    is_live: bool = False,
    status: int = 200,
) -> HTMLResponse:
    """Put a page of the dashboard together.

    Args:
        title: of the page.
        sections: its content.
        place: path of the entry of the menu that it belongs to.
        header: stands below the title.
        is_live: the content is fetched again every few seconds, while nobody reads in it.
        status: of the answer.
    """
    links = [tag("a", name, href=path, aria_current="page" if path == place else None) for path, name in PLACES]
    live = {"data_live": LIVE_SECONDS} if is_live else {}
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag("header", tag("p", "EvalFleet", class_="kicker"), tag("h1", title), header, class_="masthead"),
        tag(
            "nav",
            *links,
            tag("span", id="live-status", role="status"),
            tag("a", "Sign out", href=SIGN_OUT_PATH) if place else None,
            aria_label="Pages",
        ),
        tag("main", *map(section_markup, sections), id="content", tabindex=-1, **live),
        *(tag("script", each) for each in _SCRIPTS),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        # Browsers ask for an icon, with or without the cookie, unless a page says that it has none.
        tag("link", rel="icon", href="data:,"),
        tag("title", plain(f"{title} – EvalFleet")),
        tag("style", _STYLE),
    )
    return HTMLResponse("<!doctype html>\n" + tag("html", head, "\n", body, lang="en") + "\n", status, HEADERS)
