"""HTTP answers, each with all that keeps a page safe, and the last on its connection."""

from __future__ import annotations

from typing import NamedTuple, Tuple

import h11


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    policy: str = "default-src 'none'; frame-ancestors 'none'"
    more: Tuple[Tuple[str, str], ...] = ()


def content(host: str, content_type: str, body: bytes) -> Answer:
    """A part of the page, which may use what comes from this host alone."""
    # Not every browser's 'self' means the WebSocket of the same host too.
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self';"
        f" connect-src 'self' ws://{host};"
        " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return Answer(200, body, content_type, policy)


def welcome(cookie: str, page: str) -> Answer:
    """Sets the cookie and leads to the page.

    A redirection would count as a step of the site on which the link stood, so that a browser
    keeps the cookie back; what is shown here, and leads on by itself, is no part of that site.
    """
    more = (("Set-Cookie", cookie), ("Refresh", f"0; url={page}"))
    return Answer(200, b"The chat is being opened.\n", more=more)


def sentence(status: int, text: str) -> Answer:
    """For people, who see it in the place of the page."""
    return Answer(status, text.encode() + b"\n")


def written(http: h11.Connection, answer: Answer, head_only: bool) -> bytes:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Content-Security-Policy", answer.policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        *answer.more,
    ]
    head: bytes = http.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    return head if head_only else head + answer.body
