"""What a driver's exception means, decided once, and its message without what is ours alone.

A message of DuckDB says what is wrong and where in the SQL: that is kept. Addresses, directories
and keys of the store are not. Knows the driver's exceptions by their names only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from engine.base import limits
from engine.base.errors import (
    ArchiveRefused,
    ArchiveUnreachable,
    EngineError,
    InvalidQuery,
    QueryRefused,
    QueryTooLarge,
)
from engine.query.ports import StoreAccess

_ADDRESS: Final = re.compile(r"https?://[^\s'\"]+")
_NAMES_A_FILE: Final = re.compile(r"\.parquet['\"]")
_WRITING: Final = re.compile("Could not write|No space left|File too large")
_READING: Final = frozenset({"HTTPException", "IOException"})
# A parser of the file's format complains with these; so does one of a user's text.
_MAYBE_READING: Final = frozenset({"InvalidInputException", "SerializationException", "Error"})
_NAMES: Final = {
    "interrupt": "InterruptException",
    "io": "IOException",
    "http": "HTTPException",
    "internal": "InternalException",
    "fatal": "FatalException",
    "memory": "OutOfMemoryException",
    "input": "InvalidInputException",
    "serialization": "SerializationException",
    "permission": "PermissionException",
}
_BROKEN: Final = frozenset({"InternalException", "FatalException"})
# The answers of a store that speak of one object; the others speak of the store.
_OBJECT_IS_GONE: Final = re.compile(r"HTTP 404|HTTP 410|No files found|No such file")
_OBJECT_IS_SHORT: Final = re.compile(r"HTTP 416")
_REFUSED: Final = re.compile(r"HTTP 401|HTTP 403|HTTP 400")


class ReadingFailed(Exception):
    """A file could not be read, or the store did not answer; the message is the driver's own."""

    def __init__(self, message: str, *, is_sure: bool) -> None:
        super().__init__(message)
        self.message = message
        self.is_sure = is_sure  # False: the user's own text may read like this

    def narrowed(self, files: Sequence[str]) -> Sequence[str]:
        """The one that the message names, or all if it names none."""
        named = [file for file in files if file in self.message]
        return named[:1] or files

    @property
    def is_gone(self) -> bool:
        return _OBJECT_IS_GONE.search(self.message) is not None

    def is_of_the_file(self, access: StoreAccess) -> bool:
        """Whether the others can be read all the same."""
        is_of_the_store = self.is_sure and access.is_s3
        return (
            not is_of_the_store or self.is_gone or _OBJECT_IS_SHORT.search(self.message) is not None
        )

    def of_the_store(self, access: StoreAccess) -> EngineError:
        line = cleaned(self.message, access).partition("\n")[0]
        if _REFUSED.search(self.message):
            return ArchiveRefused(
                "the archive's store refuses to be read with the keys that it was given; "
                f"`engine doctor` says more ({line})"
            )
        return ArchiveUnreachable(
            f"the archive's store does not answer; runs that are still hot can be read ({line})"
        )


class DatabaseBroken(Exception):
    """The driver found a fault in itself: this database is not to be used again."""


class Interrupted(Exception):
    """The statement was stopped from outside."""


def exception_name(message: str) -> str:
    """Of the driver's exception whose text this is."""
    kind = message.partition(" Error:")[0].rpartition(" ")[2].rpartition("\n")[2]
    return _NAMES.get(kind.lower(), f"{kind}Exception")


def translate(name: str, message: str, access: StoreAccess) -> Exception:
    if name == "InterruptException":
        return Interrupted()
    if name in _READING and _WRITING.search(message):
        return QueryTooLarge("the query needs more scratch space than a query may take")
    if name in _READING:
        return ReadingFailed(message, is_sure=True)
    if name in _MAYBE_READING and _NAMES_A_FILE.search(message):
        return ReadingFailed(message, is_sure=False)
    if name in _BROKEN:
        return DatabaseBroken(cleaned(message, access))
    text = cleaned(message, access)
    if name == "PermissionException":
        return QueryRefused(f"a query reads its own tenant's runs and nothing else. {text}")
    if name == "OutOfMemoryException":
        return QueryTooLarge(
            "the query needs more memory than a tenant has; aggregate sooner, or read fewer days "
            f"and columns ({text.partition(chr(10))[0]})"
        )
    return InvalidQuery(text)


def cleaned(message: str, access: StoreAccess) -> str:
    """Without places and keys, and not longer than a person reads."""
    for hidden in (access.secret_key, access.session_token, access.access_key):
        if hidden:
            message = message.replace(hidden, "***")
    message = _ADDRESS.sub("(the store)", message)
    message = message.replace(access.root.rstrip("/") + "/", "")
    if len(message) > limits.query_message_characters_max:
        return message[: limits.query_message_characters_max] + "…"
    return message
