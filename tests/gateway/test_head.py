"""What our reader of heads accepts, h11 reads as the same request; what it refuses goes to h11."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.gateway.transport.head import Head, parse_head

PLAIN = "POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX-A:  b c \r\n"


def with_line(line: str) -> str:
    return f"GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n"


def test_a_plain_head() -> None:
    headers = {"host": "h", "content-length": "3", "x-a": "b c"}
    assert parse_head(PLAIN) == Head("POST", "/v1/x?y=1", headers, 3, True)


def test_a_header_that_is_there_twice_is_one() -> None:
    head = parse_head(with_line("A: 1\r\na: 2"))
    assert head is not None
    assert head.headers["a"] == "1, 2"


@pytest.mark.parametrize(("value", "keeps"), [("close", False), ("Keep-Alive", True)])
def test_connection(value: str, keeps: bool) -> None:
    head = parse_head(with_line(f"Connection: {value}"))
    assert head is not None
    assert head.keeps_alive is keeps


@pytest.mark.parametrize(
    "text",
    [
        "GET / HTTP/1.0\r\nHost: h\r\n",
        "GET / HTTP/1.1\r\n",  # no host
        "PRI * HTTP/2.0\r\n",
        "PUT / HTTP/1.1\r\nHost: h\r\n",
        "GET http://h/ HTTP/1.1\r\nHost: h\r\n",
        "GET  / HTTP/1.1\r\nHost: h\r\n",
        "GET /\x7f HTTP/1.1\r\nHost: h\r\n",
        "GET / HTTP/1.1\nHost: h\r\n",
        with_line("Host: other"),
        with_line("Transfer-Encoding: chunked"),
        with_line("Expect: 100-continue"),
        with_line("Connection: Upgrade\r\nUpgrade: h2c"),
        with_line("Connection: keep-alive, X-A"),
        with_line("Content-Length: 3\r\nContent-Length: 3"),
        with_line("Content-Length: 3, 3"),
        with_line("Content-Length: +3"),
        with_line("Content-Length: 0x3"),
        with_line("Content-Length: \xb2"),
        with_line("Content-Length: 9999999999999999"),
        with_line("Content-Length:"),
        with_line("A : 1"),
        with_line(" folded"),
        with_line("A: 1\r\n folded"),
        with_line("A: \x00"),
        with_line("A: \x0b"),
        with_line("A: 1\n"),
        with_line("A: 1\rB: 2"),
        with_line("\xe4: 1"),
        with_line("A"),
        with_line(": 1"),
    ],
)
def test_what_is_not_beyond_doubt_is_refused(text: str) -> None:
    assert parse_head(text) is None


def test_a_head_takes_linear_time() -> None:
    """A reader that tried every way to split these would not come back."""
    for filling in (" " * 15_000, "a" * 15_000, "a " * 7_000, "\t \t" * 5_000):
        assert parse_head(with_line(f"A:{filling}\x00")) is None
        assert parse_head(with_line(filling)) is None


NAMES = st.sampled_from(
    ["Host", "content-length", "Connection", "A", "a", "Cookie", "Te", "Transfer-Encoding", "X-1"]
)
VALUES = st.sampled_from(
    ["h", "", "0", "12", "close", "keep-alive", "a,b", " padded ", "\t", "chunked", "\xff", "+1"]
) | st.text(st.characters(max_codepoint=255), max_size=8)
LINES = st.builds("{}:{}{}".format, NAMES, st.sampled_from(["", " ", "\t"]), VALUES)
TARGETS = st.sampled_from(["/", "/v1/x?y=%20", "*", "/a b", "//", "/\xe4", "h://h/"])
HEADS = st.builds(
    lambda method, target, version, lines: "".join(
        f"{line}\r\n" for line in [f"{method} {target} HTTP/{version}", *lines]
    ),
    st.sampled_from(["GET", "POST", "get", "PRI"]),
    TARGETS,
    st.sampled_from(["1.1", "1.0", "1.2"]),
    st.lists(LINES, max_size=5),
)


@given(HEADS | st.text(st.characters(max_codepoint=255), max_size=80))
@example(PLAIN)
@example(with_line("A: 1\r\na: 2"))
def test_h11_reads_the_same(text: str) -> None:
    head = parse_head(text)
    if head is None:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(text.encode("latin-1") + b"\r\n")
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert request.method.decode() == head.method
    assert request.target.decode() == head.target
    joined: dict[str, list[str]] = {}
    for name, value in request.headers:
        joined.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    assert {name: ", ".join(values) for name, values in joined.items()} == head.headers
    server.receive_data(b"x" * min(head.body_bytes, 100))
    body = server.next_event()
    if head.body_bytes:
        assert isinstance(body, h11.Data)
        assert len(body.data) == min(head.body_bytes, 100)
    else:
        assert isinstance(body, h11.EndOfMessage)
