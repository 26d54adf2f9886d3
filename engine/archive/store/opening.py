"""Which store the settings name: a directory, or a bucket. Knows nothing of what is put there."""

from __future__ import annotations

from pathlib import Path

from engine.archive.store.local import LocalStore
from engine.archive.store.s3 import S3Store
from engine.archive.store.stores import ObjectStore
from engine.base.errors import InvalidSettings
from engine.config.archive import ArchiveSettings


def open_store(settings: ArchiveSettings, data_dir: Path) -> ObjectStore:
    """Nothing is asked of it yet: a store that is down stops nobody from starting."""
    if settings.is_s3:
        return S3Store(settings)
    if "://" in settings.url:
        raise InvalidSettings(
            f"archive.url {settings.url.partition('://')[0]}://… is not known: use s3://bucket/"
            "prefix with archive.endpoint, or the path of a directory",
            field="archive.url",
        )
    return LocalStore(Path(settings.url) if settings.url else data_dir / "archive")
