"""Rows of a query in the forms that HTTP can carry: JSON, CSV, an Arrow stream; and which of them
a client wants, by its header Accept.

What JSON says beside the rows (how long it took, what is missing) is in headers of the other two.
Knows no SQL and no Arrow: a stream is bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from engine.gateway.api.exchange import ARROW_TYPE, CSV_TYPE, JSON_TYPE, Header, Response
from engine.gateway.api.problems import NotAcceptable
from engine.gateway.settings import skipped_characters_max, skipped_shown_max
from engine.model.query import ArrowAnswer, QueryAnswer

TABLE_TYPES: Final = (JSON_TYPE, ARROW_TYPE, CSV_TYPE)
ROW_TYPES: Final = (JSON_TYPE, CSV_TYPE)


def chosen_type(accept: str | None, offered: Sequence[bytes]) -> bytes:
    """The one that the client likes best; the first one where it does not care."""
    if not accept or not accept.strip():
        return offered[0]
    wanted = [_range_of(part) for part in accept.split(",")]
    best, best_quality = b"", 0.0
    for media_type in offered:
        quality = _quality_of(media_type.decode(), wanted)
        if quality > best_quality:
            best, best_quality = media_type, quality
    if not best:
        names = ", ".join(media_type.decode() for media_type in offered)
        raise NotAcceptable(
            f"Accept is {accept[:200]!r}, and this route answers as {names}; ask for one of them",
            field="Accept",
        )
    return best


def _range_of(part: str) -> tuple[str, float]:
    name, *parameters = (word.strip().lower() for word in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter.removeprefix("q="))
            except ValueError:
                quality = 0.0
    return name, quality


def _quality_of(media_type: str, wanted: Sequence[tuple[str, float]]) -> float:
    """By the range that fits it most closely."""
    found = dict(wanted)
    for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if name in found:
            return found[name]
    return 0.0


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(tuple(map(_csv_value, row)) for row in rows)
    return text.getvalue().encode()


def csv_response(answer: QueryAnswer) -> Response:
    return Response(
        csv_bytes(answer.columns, answer.rows),
        content_type=CSV_TYPE + b"; charset=utf-8",
        headers=_facts(answer),
    )


def arrow_response(answer: ArrowAnswer) -> Response:
    return Response(answer.stream, content_type=ARROW_TYPE, headers=_facts(answer))


def objects(answer: QueryAnswer) -> list[dict[str, Any]]:
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _csv_value(value: object) -> object:
    """NULL is empty; what has no form in CSV is written as JSON."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _facts(answer: QueryAnswer | ArrowAnswer) -> tuple[Header, ...]:
    skipped = [one[:skipped_characters_max] for one in answer.skipped[:skipped_shown_max]]
    return (
        (b"x-query-truncated", b"true" if answer.truncated else b"false"),
        (b"x-query-elapsed-ms", b"%.1f" % answer.elapsed_ms),
        # Whatever script an object's name is in, a header is ASCII.
        (b"x-query-skipped", json.dumps(skipped).encode("ascii")),
    )
