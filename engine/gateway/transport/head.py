"""The head of a plain HTTP/1.1 request: text in, values out.

Plain means: GET or POST, a path, ordinary headers, a body of known length or none. Whatever is not
beyond doubt plain is refused (None) and goes to Hypercorn, byte for byte, so that every question of
the grammar is answered by h11 and never by this file. A head that is accepted here means to h11
exactly what it means here; the tests hold the two against each other.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_REQUEST_LINE: Final = re.compile(r"(GET|POST) (/[!-~]*) HTTP/1\.1\r\n")
# Names are tokens; values have no control characters but the tab. The quantifiers are possessive,
# so that no head takes more than linear time.
_HEADERS: Final = re.compile(
    r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+\r\n)++",
)
# These change how the message is to be read; a plain request has none of them.
_NOT_PLAIN: Final = frozenset({"transfer-encoding", "upgrade", "expect", "http2-settings", "te"})
# Said twice, one of the two would win here and perhaps the other elsewhere.
_ONCE: Final = frozenset({"host", "content-length", "connection"})
_LENGTH_DIGITS_MAX: Final = 15


class Head(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body_bytes: int
    keeps_alive: bool


def parse_head(text: str) -> Head | None:
    """Of a head without its last empty line, decoded as latin-1."""
    request_line = _REQUEST_LINE.match(text)
    if request_line is None:
        return None
    headers = _headers(text, request_line.end())
    if headers is None or "host" not in headers or not _NOT_PLAIN.isdisjoint(headers):
        return None
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) <= _LENGTH_DIGITS_MAX):
        return None
    connection = headers.get("connection", "keep-alive").lower()
    if connection not in ("keep-alive", "close"):
        return None
    method, target = request_line.groups()
    return Head(method, target, headers, int(length), connection == "keep-alive")


def _headers(text: str, position: int) -> dict[str, str] | None:
    if _HEADERS.fullmatch(text, position) is None:
        return None
    headers: dict[str, str] = {}
    for line in text[position:-2].split("\r\n"):
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name not in headers:
            headers[name] = value
        elif name in _ONCE:
            return None
        else:
            headers[name] = f"{headers[name]}, {value}"
    return headers
