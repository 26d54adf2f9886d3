"""What a driver's exception becomes, and that its message is fit to be shown."""

from __future__ import annotations

import pytest

from engine.base.errors import (
    ArchiveRefused,
    ArchiveUnreachable,
    InvalidQuery,
    QueryRefused,
    QueryTooLarge,
)
from engine.query.child.failures import (
    DatabaseBroken,
    Interrupted,
    ReadingFailed,
    cleaned,
    translate,
)
from engine.query.ports import StoreAccess

ACCESS = StoreAccess(
    root="s3://bucket/engine",
    endpoint="minio:9000",
    access_key="AKIAKEY",
    secret_key="hunter22",
    session_token="sessiontoken",
)
FILE = "s3://bucket/engine/runs/tenant=a/day=2026-01-01/runs-1.parquet"


@pytest.mark.parametrize(
    ("name", "message", "kind"),
    [
        ("ParserException", "syntax error", InvalidQuery),
        ("BinderException", "no such column", InvalidQuery),
        ("ConversionException", "not a number", InvalidQuery),
        ("InvalidInputException", "bad regular expression", InvalidQuery),
        ("InvalidInputException", f"No magic bytes in '{FILE}'", ReadingFailed),
        ("HTTPException", "HTTP 503", ReadingFailed),
        ("IOException", "Could not connect", ReadingFailed),
        ("PermissionException", "Cannot access", QueryRefused),
        ("OutOfMemoryException", "failed to pin", QueryTooLarge),
        ("InterruptException", "Interrupted!", Interrupted),
        ("InternalException", "assertion", DatabaseBroken),
        ("FatalException", "invalidated", DatabaseBroken),
    ],
)
def test_each_exception_has_one_meaning(name: str, message: str, kind: type[Exception]) -> None:
    assert type(translate(name, message, ACCESS)) is kind


@pytest.mark.parametrize(
    ("message", "is_of_the_file", "of_the_store"),
    [
        (f"HTTP GET error reading '{FILE}' (HTTP 404 Not Found)", True, ArchiveUnreachable),
        (f"HTTP GET error reading '{FILE}' (HTTP 503 Slow Down)", False, ArchiveUnreachable),
        (f"HTTP GET error reading '{FILE}' (HTTP 403 Forbidden)", False, ArchiveRefused),
        ("Could not connect to server error for HTTP HEAD", False, ArchiveUnreachable),
        ("Timeout was reached error for HTTP GET", False, ArchiveUnreachable),
    ],
)
def test_a_fault_of_the_store_is_told_from_one_of_a_file(
    message: str, is_of_the_file: bool, of_the_store: type[Exception]
) -> None:
    failed = ReadingFailed(message, is_sure=True)
    assert failed.is_of_the_file(ACCESS) is is_of_the_file
    assert type(failed.of_the_store(ACCESS)) is of_the_store
    # In a directory there is no store that could be down.
    assert failed.is_of_the_file(StoreAccess(root="/data/archive"))


def test_places_and_keys_are_not_in_what_is_shown() -> None:
    told = (
        f"Cannot access '{FILE}': https://minio:9000/bucket?X-Amz-Credential=AKIAKEY said hunter22 "
        "and sessiontoken\n\nLINE 1: SELECT 1\n        ^"
    )
    shown = cleaned(told, ACCESS)
    assert shown == (
        "Cannot access 'runs/tenant=a/day=2026-01-01/runs-1.parquet': (the store) said *** and "
        "***\n\nLINE 1: SELECT 1\n        ^"
    )


def test_a_message_has_an_end() -> None:
    assert len(cleaned("x" * 1_000_000, ACCESS)) < 3_000


def test_keys_are_not_in_the_text_of_the_access() -> None:
    assert "hunter22" not in f"{ACCESS} {ACCESS!r}"
