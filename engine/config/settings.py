"""The settings of a runtime, from defaults, a TOML file, `ENGINE_*` variables and flags, in that
order; the last one that says something wins.

Every setting is checked here, once; an error names the setting, where it came from and what is
allowed. Knows no component: each takes the group that is its own.
"""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from engine.base import limits
from engine.base.errors import InvalidSettings
from engine.base.limits import MIB
from engine.config.archive import ArchiveSettings
from engine.config.coordinator import CoordinatorSettings
from engine.config.query import QuerySettings
from engine.config.tls import check_pair

_ENVIRONMENT_PREFIX = "ENGINE_"


class JournalSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How records are kept."""

    durability: Literal["commit", "interval", "os"] = "commit"
    flush_interval_ms: Annotated[
        int, msgspec.Meta(ge=limits.flush_interval_ms_min, le=limits.flush_interval_ms_max)
    ] = 10
    block_cache_bytes: Annotated[int, msgspec.Meta(ge=limits.block_cache_bytes_min)] = 64 * MIB
    write_buffer_bytes: Annotated[int, msgspec.Meta(ge=limits.write_buffer_total_bytes_min)] = (
        128 * MIB
    )
    tenants_open_max: Annotated[
        int, msgspec.Meta(ge=limits.tenants_open_min, le=limits.tenants_open_max)
    ] = 512
    tenant_idle_close_s: Annotated[int, msgspec.Meta(ge=limits.tenant_idle_close_s_min)] = 300


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who holds this key speaks for the tenant, as a client or as a worker."""

    key: Annotated[str, msgspec.Meta(min_length=16, pattern="^sk_")]
    tenant_id: str
    project_id: str = "default"
    user_id: str | None = None


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without keys, only this machine may ask (the tenant is `tenant_id`); with keys, every
    request and every worker needs one."""

    keys: tuple[ApiKey, ...] = ()
    # Without keys: names besides localhost under which a browser of this machine may ask. Others
    # are refused, since any page can have its own name point here.
    local_hosts: tuple[str, ...] = ()
    # Without keys: what a proxy on this machine passes on is as good as said here. Then whoever
    # reaches the proxy may do everything.
    proxy_is_local: bool = False
    tenant_id: str = "dev"
    project_id: str = "default"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    data_dir: str = "./engine-data"
    http: str = "127.0.0.1:34181"
    grpc: str = "127.0.0.1:34180"
    # Files in PEM form. With them both doors speak TLS, and nothing else.
    tls_certificate: str = ""
    tls_key: str = ""
    journal: JournalSettings = msgspec.field(default_factory=JournalSettings)
    coordinator: CoordinatorSettings = msgspec.field(default_factory=CoordinatorSettings)
    archive: ArchiveSettings = msgspec.field(default_factory=ArchiveSettings)
    query: QuerySettings = msgspec.field(default_factory=QuerySettings)
    auth: AuthSettings = msgspec.field(default_factory=AuthSettings)
    # The gateway checks its own group: it is above this layer.
    gateway: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_pair(self.tls_certificate, self.tls_key)


def load_settings(
    *,
    file: Path | None = None,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
) -> Settings:
    """Settings from all sources. Variables are `ENGINE_DATA_DIR`, `ENGINE_JOURNAL__DURABILITY`:
    a double underscore goes one group down. Flags use dots: `journal.durability`."""
    merged: dict[str, object] = _read_file(file) if file is not None else {}
    for name, text in environment.items():
        path = name.removeprefix(_ENVIRONMENT_PREFIX).lower().split("__")
        if name.startswith(_ENVIRONMENT_PREFIX) and path[0] in Settings.__struct_fields__:
            _put(merged, path, text)
    for name, value in flags.items():
        if value is not None:
            _put(merged, name.split("."), value)
    try:
        # Not strict: variables and flags are text, and "12" is a fine way to say 12.
        return msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSettings(
            f"the settings are not usable: {error}{_allowed(str(error))}. "
            f"They come from {file or 'no file'}, {_ENVIRONMENT_PREFIX}* variables and flags"
        ) from error


def _allowed(message: str) -> str:
    """The values of a setting that has a list of them; the checker names only what was wrong."""
    owner: object = Settings
    for name in message.partition("`$.")[2].rstrip("`").split("."):
        owner = typing.get_type_hints(owner).get(name) if isinstance(owner, type) else None
    values = typing.get_args(owner) if typing.get_origin(owner) is Literal else ()
    return f"; it can be {', '.join(values)}" if values else ""


def _read_file(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSettings(f"the settings file {file} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"the settings file {file} is not TOML: {error}") from error


def _put(tree: dict[str, object], path: list[str], value: object) -> None:
    for name in path[:-1]:
        branch = tree.setdefault(name, {})
        if not isinstance(branch, dict):
            raise InvalidSettings(f"{name!r} is a value and a group at once in the settings")
        tree = branch
    tree[path[-1]] = value
