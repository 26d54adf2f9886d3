"""What `engine doctor` looks at on this machine: settings, data directory, disk, ports, a runtime.

A check looks at one thing and returns a `Check`; no check stops the others. Nothing is changed:
what is written to measure the disk has no name and is gone at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import socket
import ssl
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx
import msgspec

from engine.base import limits
from engine.base.clock import Clock, system_clock
from engine.base.errors import InvalidSettings
from engine.base.limits import MIB
from engine.cli.checking.archive_checks import check_archive, check_archiving
from engine.cli.checking.check import Check
from engine.cli.composing.serving import parse_address
from engine.config.settings import Settings, load_settings
from engine.config.tls import server_context
from engine.coordinator.server import Address
from engine.gateway.settings import GatewaySettings
from engine.journal.directory import FORMAT
from engine.journal.layout import lock_path
from engine.model.views import ComponentView
from engine.query.child.confinement import walls_possible

FREE_BYTES_LOW: Final = 1024 * MIB
SYNC_COUNT: Final = 50
SYNC_BYTES: Final = 4_096
SYNC_SLOW_US: Final = 10_000
FILES_PER_TENANT: Final = 10  # of an open store, about
FILES_ELSEWHERE: Final = 1_000  # connections of clients and workers, and the process itself
HTTP_TIMEOUT_S: Final = 3.0
CONNECT_TIMEOUT_S: Final = 1.0
NAMES_SHOWN_MAX: Final = 8
# What is kept there is gone when the machine restarts, however well it was synced.
MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
MOUNTS: Final = Path("/proc/self/mounts")

_ANYWHERE: Final[Mapping[str, str]] = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class _Components(msgspec.Struct):
    components: list[ComponentView]


def examine_machine(
    config: Path | None, flags: Mapping[str, object], api_key: str
) -> Iterator[Check]:
    checked, settings = check_settings(config, flags)
    yield checked
    data_dir = Path(settings.data_dir)
    yield check_data_dir(data_dir)
    folder = nearest_folder(data_dir)
    yield check_free_space(shutil.disk_usage(folder).free, folder)
    yield check_sync(folder)
    yield check_archive(settings.archive, data_dir)
    yield check_walls(walls_possible())
    yield check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0], settings)
    scheme = "https" if settings.tls_certificate else "http"
    with httpx.Client(
        timeout=HTTP_TIMEOUT_S, trust_env=False, verify=_own_certificate(settings)
    ) as client:
        http = parse_address(settings.http, "http")
        checked, is_up = check_http(client, http, scheme)
        yield checked
        yield check_grpc(parse_address(settings.grpc, "grpc"), is_up=is_up, scheme=scheme)
        yield check_holder(data_dir, is_up=is_up)
        if is_up:
            key = api_key or next((key.key for key in settings.auth.keys), "")
            yield check_ready(client, http, scheme)
            yield check_components(client, http, settings.grpc, key, scheme)
            yield check_archiving(client, _url(http, scheme), key)


# ---- settings ----


def check_settings(config: Path | None, flags: Mapping[str, object]) -> tuple[Check, Settings]:
    """The settings, or the defaults if they are not usable."""
    try:
        settings = load_settings(file=config, environment=os.environ, flags=flags)
        parse_address(settings.http, "http")
        parse_address(settings.grpc, "grpc")
        server_context(settings.tls_certificate, settings.tls_key, ["h2"])
        msgspec.convert(settings.gateway, GatewaySettings, strict=False)
    except InvalidSettings as error:
        return Check("settings", "fail", error.message, "the checks below are of the defaults"), (
            Settings()
        )
    except msgspec.ValidationError as error:
        found = f"the settings of the gateway are not usable: {error}"
        return Check("settings", "fail", found, "the checks below are of the defaults"), Settings()
    found = f"valid, from {config or 'no file'}, variables and flags"
    return Check("settings", "ok", found), settings


# ---- the disk ----


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the one it would be made in, as far as this user can see."""
    path = path.absolute()
    # Not Path.is_dir, which raises where this user may not look.
    return next(folder for folder in (path, *path.parents) if os.path.isdir(folder))


def check_data_dir(data_dir: Path) -> Check:
    shown = data_dir.absolute()
    folder = nearest_folder(data_dir)
    advice = "give --data-dir a directory that this user may write to"
    if os.path.exists(shown) and not os.path.isdir(shown):
        return Check("data directory", "fail", f"{shown} is not a directory", advice)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Check("data directory", "fail", f"{folder} may not be written to", advice)
    if folder != shown:
        return Check("data directory", "ok", f"{shown} will be made")
    file = shown / "FORMAT"
    found = file.read_text(errors="replace").strip() if file.is_file() else FORMAT
    if found != FORMAT:
        said = f"{shown} has format {found[:20]!r}, this engine reads {FORMAT!r}"
        return Check("data directory", "fail", said, "use the version that wrote it")
    file_system = file_system_of(shown, MOUNTS)
    if file_system in MEMORY_FILE_SYSTEMS:
        said = f"{shown} is in memory ({file_system}): a restart of the machine loses it"
        return Check("data directory", "warn", said, "give --data-dir a directory on a disk")
    return Check("data directory", "ok", str(shown))


def file_system_of(folder: Path, mounts: Path) -> str:
    """Its type, such as `ext4`; empty where the machine does not tell."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    resolved = folder.resolve()
    # The last one of a path covers those that were mounted there before.
    found = {Path(words[1]): words[2] for words in lines if resolved.is_relative_to(words[1])}
    return found[max(found, key=lambda path: len(path.parts))] if found else ""


def check_free_space(free_bytes: int, folder: Path) -> Check:
    found = f"{free_bytes / (1024 * MIB):,.1f} GiB free at {folder}"
    if free_bytes < limits.resume_free_bytes_min:
        return Check("free space", "fail", found, "make room: nothing can be acknowledged")
    if free_bytes < FREE_BYTES_LOW:
        return Check("free space", "warn", found, "make room: a full disk stops all writing")
    return Check("free space", "ok", found)


def check_sync(folder: Path, clock: Clock = system_clock) -> Check:
    """How long the disk takes to make one small record durable, as the journal will ask it to."""
    try:
        median_us = int(statistics.median(sync_times_us(folder, clock)))
    except OSError as error:
        found = f"writing to {folder} failed: {error.strerror}"
        return Check("disk sync", "fail", found, "give --data-dir a directory on a sound disk")
    found = f"{median_us / 1_000:.2f} ms, the median of {SYNC_COUNT}"
    if median_us > SYNC_SLOW_US:
        advice = (
            "each step of a run waits that long: use a local SSD, or set journal.durability to "
            "`interval` if a power cut may cost the last few milliseconds"
        )
        return Check("disk sync", "warn", f"{found}: slow", advice)
    return Check("disk sync", "ok", found)


def sync_times_us(folder: Path, clock: Clock) -> list[int]:
    block = bytes(SYNC_BYTES)
    taken: list[int] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SYNC_COUNT):
            begun_us = clock.monotonic_us()
            file.write(block)
            os.fdatasync(file.fileno())
            taken.append(clock.monotonic_us() - begun_us)
    return taken


def check_holder(data_dir: Path, *, is_up: bool) -> Check:
    """Who holds the data directory, and whether that is the runtime that answers."""
    holder = holder_of(lock_path(data_dir))
    if holder is None and is_up:
        found = f"nobody, and a runtime is up: it does not keep its data in {data_dir.absolute()}"
        return Check("held by", "warn", found, "give --data-dir and --http of the same runtime")
    if holder is None:
        return Check("held by", "ok", "nobody")
    if not is_up:
        advice = "give --http of that process, or stop it before you start another"
        return Check("held by", "warn", f"{holder}, which does not answer here", advice)
    return Check("held by", "ok", holder)


def holder_of(lock: Path) -> str | None:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Shared, and let go at once: a runtime that starts in this very moment would be refused,
        # but the kernel has no other way to ask. The next try gets it.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
    else:
        return None
    finally:
        os.close(descriptor)


# ---- the process ----


def check_walls(possible: Mapping[str, bool]) -> Check:
    """What the kernel can forbid the processes in which queries run."""
    missing = [name for name, is_there in possible.items() if not is_there]
    found = f"queries run behind limits, {', '.join(n for n in possible if possible[n]) or 'alone'}"
    if missing:
        advice = (
            "queries have the limits and the other walls; a kernel of 5.13 or newer, and a "
            "container that lets them through, has these too"
        )
        return Check("query walls", "warn", f"{found}; not {', '.join(missing)}", advice)
    return Check("query walls", "ok", found)


def check_open_files(files_max: int, settings: Settings) -> Check:
    tenants = {key.tenant_id for key in settings.auth.keys} | {settings.auth.tenant_id}
    stores = min(settings.journal.tenants_open_max, len(tenants))
    needed = FILES_ELSEWHERE + FILES_PER_TENANT * stores
    if files_max == resource.RLIM_INFINITY or files_max >= needed:
        shown = "any number" if files_max == resource.RLIM_INFINITY else f"{files_max:,}"
        return Check("open files", "ok", f"{shown} at most")
    found = f"{files_max:,} at most, about {needed:,} are needed with {stores} open tenants"
    advice = f"`ulimit -n {needed}` before it is started (LimitNOFILE= in a systemd unit)"
    return Check("open files", "warn", found, advice)


# ---- the doors ----


def check_http(client: httpx.Client, address: Address, scheme: str = "http") -> tuple[Check, bool]:
    """And whether a runtime answers there."""
    trouble = listening_trouble(address)
    if trouble == errno.EADDRINUSE and answers_as_runtime(client, address, scheme):
        return Check("http", "ok", f"a runtime answers at {_url(address, scheme)}"), True
    return _port("http", address, trouble), False


def check_grpc(address: Address, *, is_up: bool, scheme: str = "http") -> Check:
    trouble = listening_trouble(address)
    if is_up and trouble == errno.EADDRINUSE:
        return Check("grpc", "ok", f"workers connect to {_url(address, scheme)}")
    if is_up and trouble is None:
        found = f"nobody listens at {address}, so the runtime that is up listens elsewhere"
        return Check("grpc", "warn", found, "give --grpc the address it was started with")
    return _port("grpc", address, trouble)


def _port(name: str, address: Address, trouble: int | None) -> Check:
    if trouble is None:
        return Check(name, "ok", f"{address} is free")
    if trouble != errno.EADDRINUSE:
        found = f"this machine cannot listen on {address}: {os.strerror(trouble)}"
        advice = f"give --{name} an address of this machine and a port above 1023"
        return Check(name, "fail", found, advice)
    if is_listened_on(address):
        found = f"another program listens on {address}"
        return Check(name, "fail", found, f"stop it, or give --{name} another HOST:PORT")
    # Both ports are in the range that Linux takes the near end of outgoing connections from.
    found = f"a connection that somebody has, or had a minute ago, begins at {address}"
    advice = f"try again, or keep it free: sysctl net.ipv4.ip_local_reserved_ports={address.port}"
    return Check(name, "warn", found, advice)


def listening_trouble(address: Address) -> int | None:
    """The error number that a process would get that wants to listen there."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return errno.EADDRNOTAVAIL
    family, kind, protocol, _, where = found[0]
    try:
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
    except OSError as error:
        return error.errno
    return None


def is_listened_on(address: Address) -> bool:
    try:
        socket.create_connection(_reachable(address), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def answers_as_runtime(client: httpx.Client, address: Address, scheme: str) -> bool:
    try:
        answer = client.get(f"{_url(address, scheme)}/healthz")
        return answer.status_code == 200 and answer.json() == {"status": "ok"}
    except (httpx.HTTPError, ValueError):
        return False


# ---- the runtime that is up ----


def check_ready(client: httpx.Client, address: Address, scheme: str = "http") -> Check:
    try:
        answer = client.get(f"{_url(address, scheme)}/readyz")
    except httpx.HTTPError as error:
        return Check("ready", "fail", f"no answer: {error}", "look at what the runtime has logged")
    if answer.status_code == 200:
        return Check("ready", "ok", "it takes work")
    return Check("ready", "warn", _problem(answer), "ask again in a moment")


def check_components(
    client: httpx.Client, address: Address, grpc: str, api_key: str, scheme: str = "http"
) -> Check:
    headers = {"x-api-key": api_key} if api_key else {}
    try:
        answer = client.get(f"{_url(address, scheme)}/v1/components", headers=headers)
        if answer.status_code != 200:
            return Check("components", "warn", _problem(answer), "give --api-key a key it knows")
        found = msgspec.json.decode(answer.content, type=_Components).components
    except (httpx.HTTPError, msgspec.MsgspecError) as error:
        return Check("components", "warn", f"they cannot be listed: {error}")
    start = f"engine worker MODULE --endpoint {_url(parse_address(grpc, 'grpc'), scheme)}"
    if not found:
        return Check("components", "warn", "no worker has connected yet", f"start one: {start}")
    unserved = [component.name for component in found if not component.workers]
    if unserved:
        said = f"no worker serves {_listed(unserved)}: their runs wait"
        return Check("components", "warn", said, f"start one: {start}")
    return Check("components", "ok", f"served: {_listed([view.name for view in found])}")


def _problem(answer: httpx.Response) -> str:
    """What a problem document says; or as much of the answer as fits a line."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, LookupError, TypeError):
        return f"{answer.status_code} {answer.text[:100]!r}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMES_SHOWN_MAX])
    more = len(names) - NAMES_SHOWN_MAX
    return f"{shown} and {more} more" if more > 0 else shown


def _reachable(address: Address) -> Address:
    """Where a process on this machine finds who listens on every address."""
    return Address(_ANYWHERE.get(address.host, address.host), address.port)


def _url(address: Address, scheme: str) -> str:
    return f"{scheme}://{_reachable(address)}"


def _own_certificate(settings: Settings) -> ssl.SSLContext | bool:
    """Who answers here has to have the very certificate of the settings. Its names are not looked
    at: the address that is asked is this machine's, and need not be among them."""
    if not settings.tls_certificate:
        return False  # nothing is encrypted, so there is nothing to verify
    context = ssl.create_default_context(cafile=settings.tls_certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
