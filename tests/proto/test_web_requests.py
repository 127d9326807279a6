"""Who gets the chat's page, and what comes with it."""

from __future__ import annotations

from typing import Dict

import pytest

pytest.importorskip("h11")
pytest.importorskip("wsproto")

from tests.proto.web_client import FILES, HOST, ORIGIN, Client, World
from udppunch.proto.web.connection import MOST_OF_REQUEST
from udppunch.proto.web.stream import HASTE


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def inside(world: World) -> World:
    world.enter()
    return world


# --- the token -----------------------------------------------------------------------------


def test_token_opens_once(world: World) -> None:
    target = world.site.url[len(ORIGIN) :]
    first = world.get(target)
    assert first.status == 200
    attributes = first.headers["set-cookie"].split("; ")
    home = first.headers["refresh"].partition("url=")[2]
    assert attributes[1:] == [f"Path={home}", "HttpOnly", "SameSite=Strict"]
    assert target.partition("=")[2] not in first.headers["set-cookie"] + home
    second = world.get(target)
    assert second.status == 403 and b"terminal" in second.body
    assert "set-cookie" not in second.headers


def test_next_token_is_announced_and_opens_the_same_session(world: World) -> None:
    first = world.site.url
    world.enter()
    before = world.cookie
    assert world.urls == [world.site.url] != [first]
    world.enter()
    assert world.cookie == before and len(world.urls) == 2


@pytest.mark.parametrize("query", ["token=", "token=0", "token", "x=1", "token=%ff", "token=é"])
def test_wrong_tokens(world: World, query: str) -> None:
    said = f"GET /?{query} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode("latin-1")
    assert world.raw(said).take().split()[1] in (b"400", b"403")
    assert world.urls == []
    world.enter()


def test_looking_at_the_head_spends_nothing(world: World) -> None:
    assert world.get(world.site.url[len(ORIGIN) :], "HEAD").status == 403
    world.enter()


def test_nothing_without_the_cookie(inside: World) -> None:
    wrong = inside.cookie[:-1] + "x"
    for target in ("/", inside.home, f"{inside.home}chat.js", "/chat.js", "/favicon.ico"):
        for cookie in ("", wrong, "udppunch=", f"other={inside.cookie.partition('=')[2]}"):
            answer = inside.get(target, Cookie=cookie)
            assert answer.status == 403 and b"terminal" in answer.body
            assert answer.body not in [content for _, content in FILES.values()]


def test_no_place_but_home_knows_the_cookie(inside: World) -> None:
    for target in ("/", "/chat.js", "/live", inside.home.rstrip("/"), f"{ORIGIN}{inside.home}"):
        assert inside.get(target, Cookie=inside.cookie).status in (200, 403)
    elsewhere = inside.home.replace("0", "1", 1)
    assert inside.get(elsewhere, Cookie=inside.cookie).status == 403


def test_cookie_among_others(inside: World) -> None:
    for cookie in (f"a=b; {inside.cookie}", f"udppunch=old; {inside.cookie};c", inside.cookie):
        assert inside.get(inside.home, Cookie=cookie).status == 200


# --- host and origin -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1", "127.0.0.1:8001", "[::1]:8000", ""]
)
def test_foreign_hosts(inside: World, host: str) -> None:
    """A name that somebody makes lead here is not ours, cookie or not."""
    for target in (inside.home, inside.site.url[len(ORIGIN) :]):
        assert inside.get(target, host=host, Cookie=inside.cookie).status == 403
    assert inside.get(inside.home, Cookie=inside.cookie).status == 200


def test_hosts_as_browsers_write_them() -> None:
    world = World(("Chat.Example:80", "[::1]:8000"))
    assert world.site.url.startswith("http://chat.example:80/?token=")
    for host in ("chat.example", "CHAT.example:80", "[::1]:8000"):
        assert world.get("/?token=no", host=host).body.startswith(b"This link")


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:8001",
        "https://127.0.0.1:8000",
        f"{ORIGIN}/",
    ],
)
def test_foreign_origins(inside: World, origin: str) -> None:
    assert Client(inside, inside.cookie, origin).refusal == 403
    assert inside.get(inside.home, Origin=origin, Cookie=inside.cookie).status == 403


def test_websocket_needs_everything(inside: World) -> None:
    assert Client(inside, inside.cookie).accepted
    assert Client(inside, "").refusal == 403
    assert Client(inside, "udppunch=00").refusal == 403
    assert Client(inside, inside.cookie, origin=None).refusal == 404
    assert Client(inside, inside.cookie, "http://evil.example", "evil.example").refusal == 403


BAD_HANDSHAKES: Dict[str, Dict[str, str]] = {
    "none": {},
    "no key": {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"},
    "old version": {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "x" * 24,
        "Sec-WebSocket-Version": "8",
    },
    "other protocol": {
        "Upgrade": "h2c",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "x" * 24,
        "Sec-WebSocket-Version": "13",
    },
}


@pytest.mark.parametrize("headers", BAD_HANDSHAKES.values(), ids=BAD_HANDSHAKES)
def test_bad_handshakes(inside: World, headers: Dict[str, str]) -> None:
    answer = inside.get(f"{inside.home}live", Cookie=inside.cookie, Origin=ORIGIN, **headers)
    assert answer.status == 400


# --- what is had -----------------------------------------------------------------------------


def test_the_page(inside: World) -> None:
    for name, (kind, content) in [("", FILES["index.html"]), *FILES.items()]:
        answer = inside.get(f"{inside.home}{name}", Cookie=inside.cookie)
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["content-type"] == kind
    assert inside.get(f"{inside.home}other", Cookie=inside.cookie).status == 404


def test_what_keeps_it_safe(inside: World) -> None:
    page = inside.get(inside.home, Cookie=inside.cookie)
    policy = dict(
        part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": f"'self' ws://{HOST}",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for answer in (page, inside.get("/"), inside.get(f"{inside.home}no", Cookie=inside.cookie)):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_methods(inside: World) -> None:
    head = inside.get(inside.home, "HEAD", Cookie=inside.cookie)
    assert head.status == 200 and head.body == b""
    assert head.headers["content-length"] == str(len(FILES["index.html"][1]))
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"):
        assert inside.get(inside.home, method, Cookie=inside.cookie).status == 405


GARBAGE = {
    "noise": bytes(range(128, 256)) * 4,
    "nul": bytes(1000),
    "no path": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "old, no host": b"GET / HTTP/1.0\r\n\r\n",
    "odd target": b"GET //[ HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n",
    "a bad header": b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: 127.0.0.1:8000\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: " + b"x" * (MOST_OF_REQUEST + 1) + b"\r\n\r\n",
    "endless header": b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "other script's letters": b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\nCookie: udppunch=\xff\r\n\r\n",
}


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_garbage(world: World, said: bytes) -> None:
    pipe = world.raw(said)
    if pipe.ending:
        assert pipe.take().startswith((b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 431"))
    world.pass_time(HASTE)
    assert pipe.closed
    assert world.site.deadline() is None


def test_handshakes_with_other_scripts_letters(inside: World) -> None:
    for header in (b"Connection: \xff", b"Sec-WebSocket-Protocol: \xff", b"Upgrade: \xff"):
        said = b"GET %blive HTTP/1.1\r\nHost: %b\r\nCookie: %b\r\nOrigin: %b\r\n%b\r\n\r\n"
        parts = (inside.home, HOST, inside.cookie, ORIGIN)
        pipe = inside.raw(said % (*(part.encode() for part in parts), header))
        assert pipe.take().startswith(b"HTTP/1.1 400")


def test_a_request_in_pieces(inside: World) -> None:
    said = f"GET {inside.home} HTTP/1.1\r\nHost: {HOST}\r\nCookie: {inside.cookie}\r\n\r\n"
    pipe = inside.raw(b"")
    connection = inside.site.converse(pipe, inside.now)
    for octet in said.encode():
        assert not pipe.ending
        connection.received(bytes((octet,)), inside.now)
    assert pipe.ending and pipe.take().startswith(b"HTTP/1.1 200 ")


# --- time ------------------------------------------------------------------------------------


def test_slow_requests_end(world: World) -> None:
    """However many pieces come, one by one."""
    pipe = world.raw(b"GET ")
    for _ in range(9):
        world.pass_time(HASTE / 10)
        assert not pipe.closed
    world.pass_time(HASTE / 10)
    assert pipe.closed


def test_slow_readers_end(world: World) -> None:
    """One that does not take its answer has its time, no more."""
    pipe = world.raw(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    assert pipe.ending
    world.pass_time(HASTE * 0.9)
    assert not pipe.closed
    world.pass_time(HASTE * 0.1)
    assert pipe.closed
