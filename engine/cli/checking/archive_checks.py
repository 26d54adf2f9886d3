"""What `engine doctor` sees of the archive: a directory that can be written to, or a bucket that is
there and lets us in.

And how a runtime that is up gets on with it. Nothing is made and nothing is written: a bucket that
the runtime would make is said to be missing and that it will be made. What an error of the store
means is said in `engine/archive`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import httpx
import msgspec

from engine.archive.store.opening import open_store
from engine.base.errors import ArchiveRefused, ArchiveUnreachable, EngineError, InvalidSettings
from engine.cli.checking.check import Check
from engine.cli.showing.readable import duration_text
from engine.config.archive import ArchiveSettings
from engine.model.query import ArchiveStatus

REQUEST_TIMEOUT_MS: Final = 3_000
_NAME: Final = "archive"
_MEANWHILE: Final = "the runtime can run meanwhile; its ended runs wait"


def check_archive(settings: ArchiveSettings, data_dir: Path) -> Check:
    if not settings.enabled:
        found = "switched off: ended runs stay in the hot tier, which grows"
        return Check(_NAME, "warn", found, "set archive.enabled unless that is meant so")
    if settings.is_s3:
        return check_bucket(settings, data_dir)
    return check_directory(Path(settings.url) if settings.url else data_dir / "archive")


def check_directory(folder: Path) -> Check:
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    advice = "set archive.url to a directory that this user may write to"
    if not os.path.isdir(nearest):
        return Check(_NAME, "fail", f"{nearest} is not a directory", advice)
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        return Check(_NAME, "fail", f"{nearest} may not be written to", advice)
    return Check(_NAME, "ok", f"{folder}{'' if nearest == folder else ' will be made'}")


def check_bucket(settings: ArchiveSettings, data_dir: Path) -> Check:
    """Asks the store itself, with the credentials that the runtime would use."""
    looking = msgspec.structs.replace(
        settings,
        create_bucket=False,
        request_timeout_ms=min(settings.request_timeout_ms, REQUEST_TIMEOUT_MS),
    )
    try:
        store = open_store(looking, data_dir)
    except InvalidSettings as error:
        return Check(_NAME, "fail", error.message, "change the settings of the archive")
    where = f"{store.shown_url} at {settings.endpoint or 'AWS'}"
    try:
        store.ensure_ready()
    except ArchiveRefused as error:
        if settings.create_bucket and error.details.get("reason") == "NoSuchBucket":
            return Check(_NAME, "ok", f"{where}: the bucket is not there and will be made")
        return Check(_NAME, "fail", error.message, f"change that; {_MEANWHILE}")
    except ArchiveUnreachable as error:
        return Check(
            _NAME, "fail", error.message, f"start the store or check the network; {_MEANWHILE}"
        )
    except EngineError as error:
        return Check(_NAME, "fail", error.message, f"change that; {_MEANWHILE}")
    finally:
        store.close()
    return Check(_NAME, "ok", f"{where}: the bucket is there and lets us in")


def check_archiving(client: httpx.Client, url: str, api_key: str) -> Check:
    """How the runtime that is up gets its ended runs there."""
    name = "archiving"
    try:
        answer = client.get(f"{url}/v1/archive", headers={"x-api-key": api_key} if api_key else {})
        found = msgspec.json.decode(answer.content, type=ArchiveStatus)
    except (httpx.HTTPError, msgspec.MsgspecError) as error:
        return Check(name, "warn", f"the runtime does not tell: {error}", "look at its log")
    if answer.status_code != 200:
        said = f"the runtime does not tell: {answer.status_code}"
        return Check(name, "warn", said, "give --api-key a key it knows")
    waiting = "none waits"
    if found.waiting_runs:
        waiting = f"{found.waiting_runs:,} wait, the oldest for "
        waiting += duration_text(found.waiting_oldest_ms)
    said = f"{found.archived_runs:,} runs archived, {waiting}"
    if not found.reachable:
        trouble = f"{said}; {found.last_error or 'the store cannot be reached'}"
        return Check(name, "warn", trouble, "engine archive status --watch shows how it catches up")
    return Check(name, "ok", said)
