"""The one importer of DuckDB: a bounded set of locked databases, one per tenant.

A database may read its tenant's directories and nothing else, and nobody can change that any more
once it is open, not even we. Queries of one tenant are connections of one database: each has its
own temporary views and is interrupted alone. Knows no HTTP and no rule of what a query may be.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import certifi
import duckdb
import trio

from engine.base import limits
from engine.base.errors import ArchiveUnreachable, InvalidQuery, QueryBusy, QueryTimeout
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.query.child import failures
from engine.query.child.statements import Parsed, too_wide
from engine.query.interrupting import in_thread
from engine.query.ports import StoreAccess

_log: Final = logging.getLogger(__name__)
Result = TypeVar("Result")
Parameters = Sequence[object] | dict[str, object]  # by position, or by name


class PoolStatistics(NamedTuple):
    open: int
    running: int
    waiting: int
    opened: int  # since the start


class Selected:
    """The answer of a SELECT that has not been fetched yet."""

    def __init__(self, session: Session, relation: duckdb.DuckDBPyRelation) -> None:
        self._session = session
        self._relation = relation
        self.columns: Final = tuple(relation.columns)
        # Of each column the family of its type and its full name: ("decimal", "DECIMAL(18,3)").
        self.types: Final = tuple((one.id, str(one)) for one in relation.types)

    def rows(self, projection: str, rows_max: int) -> Iterator[tuple[Any, ...]]:
        """At most so many rows, projected; begins to run with the first."""
        with self._session.translated():
            plain = self._relation.limit(rows_max).project(projection)
        while True:
            with self._session.translated():
                some = plain.fetchmany(limits.query_rows_per_fetch)
            yield from some
            if len(some) < limits.query_rows_per_fetch:
                return

    def reader(self, rows_max: int) -> object:
        """The same as an Arrow reader. What it raises while it is read is the driver's."""
        with self._session.translated():
            return self._relation.limit(rows_max).to_arrow_reader(limits.query_rows_per_fetch)


class Session:
    """One query's connection; used in one thread, interrupted from any."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, access: StoreAccess) -> None:
        self._connection = connection
        self._access = access
        self._is_stopped = False

    def parse(self, sql: str) -> list[Parsed]:
        with self.translated():
            statements = self._connection.extract_statements(sql)
        return [Parsed(one.type.name, len(one.named_parameters)) for one in statements]

    def tree(self, sql: str) -> str:
        return str(self.execute("SELECT json_serialize_sql(CAST(? AS VARCHAR))", [sql])[0][0])

    def execute(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        with self.translated():
            return self._connection.execute(sql, parameters).fetchall()

    def select(self, sql: str, parameters: Parameters = ()) -> Selected:
        with self.translated():
            relation = self._connection.sql(sql, params=parameters or None)
        if len(relation.columns) > limits.query_columns_max:
            raise too_wide(len(relation.columns))
        return Selected(self, relation)

    def register(self, name: str, table: object) -> None:
        """The Arrow table as a view of this connection alone."""
        with self.translated():
            self._connection.register(name, table)

    def interrupt(self) -> None:
        self._is_stopped = True
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        if self._is_stopped:
            raise failures.Interrupted
        try:
            yield
        except duckdb.Error as error:
            raise failures.translate(type(error).__name__, str(error), self._access) from error


class Turn:
    """A query's time on its tenant's database."""

    def __init__(self, session: Session, threads: trio.CapacityLimiter) -> None:
        self._session = session
        self._threads = threads

    async def run(self, work: Callable[[Session], Result]) -> Result:
        """What `work` returns, from a thread."""
        return await in_thread(lambda: work(self._session), self._session.interrupt, self._threads)


class _Database:
    """A tenant's locked DuckDB. Opened by its first user, closed when it is left by the last."""

    def __init__(self, tenant: TenantId) -> None:
        self.tenant: Final = tenant
        self.users = 0
        self.is_retired = False
        self.opening: Final = trio.Lock()
        self.connection: duckdb.DuckDBPyConnection | None = None
        self.scratch: Path | None = None

    def open(self, settings: QuerySettings, access: StoreAccess) -> None:
        self.scratch = Path(
            tempfile.mkdtemp(prefix="engine-query-", dir=settings.temporary_directory or None)
        )
        try:
            self.connection = _locked(self.tenant, settings, access, self.scratch)
        except duckdb.Error as error:
            self.close()
            raise ArchiveUnreachable(
                f"the database for queries cannot be opened: {failures.cleaned(str(error), access)}"
            ) from error

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def _locked(
    tenant: TenantId, settings: QuerySettings, access: StoreAccess, scratch: Path
) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{settings.instance_bytes // limits.KIB}KiB",
            "threads": str(settings.threads),
            # DuckDB lets a query read its scratch directory: nobody else's may be in there.
            "temp_directory": str(scratch),
            "max_temp_directory_size": f"{settings.temporary_bytes // limits.KIB}KiB",
            # Otherwise a table's name is looked for among the variables of our Python frames.
            "python_enable_replacements": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
        },
    )
    try:
        if access.is_s3:
            _reach_store(connection, settings, access)
        # GLOBAL: without it most settings are of this connection, and queries run on others.
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        # Objects do not change once they are acknowledged: what was read of them stays right.
        connection.execute("SET GLOBAL parquet_metadata_cache = true")
        allowed = ", ".join(_quoted(directory) for directory in access.directories(tenant))
        connection.execute(f"SET GLOBAL allowed_directories = [{allowed}]")
        connection.execute("SET GLOBAL enable_external_access = false")
        connection.execute("SET GLOBAL lock_configuration = true")
    except duckdb.Error:
        connection.close()
        raise
    return connection


def _reach_store(
    connection: duckdb.DuckDBPyConnection, settings: QuerySettings, access: StoreAccess
) -> None:
    """A secret and not settings: settings can be read back with SQL."""
    connection.execute(f"LOAD {_quoted(str(_httpfs()))}")
    options = {
        "http_timeout": settings.store_timeout_s,
        "http_retries": settings.store_retries,
        "enable_http_metadata_cache": True,  # one HEAD per object and not one per query
        "httpfs_connection_caching": True,
        "enable_server_cert_verification": True,
        "enable_curl_server_cert_verification": True,
    }
    for name, value in options.items():
        connection.execute(f"SET GLOBAL {name} = {value}")
    # The archive's writer trusts the same ones; where a system keeps its own, DuckDB may not know.
    trusted = access.ca_file or certifi.where()
    connection.execute(f"SET GLOBAL ca_cert_file = {_quoted(trusted)}")
    facts = {
        "KEY_ID": access.access_key,
        "SECRET": access.secret_key,
        "SESSION_TOKEN": access.session_token,
        "REGION": access.region,
        # Left out, DuckDB asks AWS in the region; this name would answer with a redirect.
        "ENDPOINT": "" if access.endpoint == "s3.amazonaws.com" else access.endpoint,
        "URL_STYLE": "path" if access.path_style else "vhost",
        "SCOPE": access.root,
    }
    said = ", ".join(f"{name} {_quoted(value)}" for name, value in facts.items() if value)
    connection.execute(f"CREATE SECRET archive (TYPE s3, {said}, USE_SSL {access.secure})")


def _httpfs() -> Path:
    """The signed extension of exactly this DuckDB, out of its wheel."""
    folder = resources.files("duckdb_extension_httpfs") / "extensions" / f"v{duckdb.__version__}"
    return Path(str(folder / "httpfs.duckdb_extension"))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class QueryPool:
    """Runs work on a tenant's database, some at a time, each in a thread of its own."""

    def __init__(self, settings: QuerySettings, access: StoreAccess) -> None:
        self._settings = settings
        self.access: Final = access
        self._databases: OrderedDict[TenantId, _Database] = OrderedDict()  # used last comes last
        self._running = trio.Semaphore(settings.running_max)
        self._lanes: dict[TenantId, tuple[trio.Semaphore, list[int]]] = {}
        # Two more, so that opening and closing never wait for a query.
        self._threads = trio.CapacityLimiter(settings.running_max + 2)
        self._waiting = 0
        self._opened = 0

    def statistics(self) -> PoolStatistics:
        running = self._settings.running_max - self._running.value
        return PoolStatistics(len(self._databases), running, self._waiting, self._opened)

    @contextlib.asynccontextmanager
    async def use(
        self, tenant: TenantId, *, time_limit_ms: int | None = None
    ) -> AsyncIterator[Turn]:
        """A turn on the tenant's database. What runs in it is stopped when the caller is cancelled
        or the time is over; waiting for the turn does not count."""
        limit_ms = time_limit_ms or self._settings.time_limit_ms
        async with self._turn(tenant), self._database(tenant) as database:
            assert database.connection is not None
            session = Session(database.connection.cursor(), self.access)
            try:
                with trio.move_on_after(limit_ms / 1_000):
                    yield Turn(session, self._threads)
                    return
            except failures.DatabaseBroken as error:
                await self._replace(database)
                raise InvalidQuery(f"the query broke its database: {error}") from error
            finally:
                session.close()
        raise QueryTimeout(
            f"the query was stopped after {limit_ms} ms; read fewer days (WHERE day >= ...), or "
            "fewer columns",
            time_limit_ms=limit_ms,
        )

    async def aclose(self) -> None:
        """Closes what is idle; a database in use closes with its last query."""
        databases = list(self._databases.values())
        self._databases.clear()
        for database in databases:
            database.is_retired = True
            if not database.users:
                await self._close(database)

    async def retire(self, tenant: TenantId) -> None:
        """The next query gets a new database, that remembers nothing of the files."""
        database = self._databases.pop(tenant, None)
        if database is not None:
            database.is_retired = True
            if not database.users:
                await self._close(database)

    async def _replace(self, database: _Database) -> None:
        _log.error("the query database of tenant %s broke and is replaced", database.tenant)
        if self._databases.get(database.tenant) is database:
            await self.retire(database.tenant)

    @contextlib.asynccontextmanager
    async def _turn(self, tenant: TenantId) -> AsyncIterator[None]:
        """A place among this tenant's queries, then one among all: no tenant fills the queue."""
        if self._waiting >= self._settings.waiting_max and self._is_full(tenant):
            raise QueryBusy(f"{self._waiting} queries wait already; come again in a second")
        lane, users = self._lanes.setdefault(
            tenant, (trio.Semaphore(self._settings.running_per_tenant_max), [0])
        )
        users[0] += 1
        self._waiting += 1
        is_waiting = True
        try:
            async with lane, self._running:
                self._waiting -= 1
                is_waiting = False
                yield
        finally:
            self._waiting -= is_waiting
            users[0] -= 1
            if not users[0]:
                del self._lanes[tenant]

    def _is_full(self, tenant: TenantId) -> bool:
        lane = self._lanes.get(tenant)
        return not self._running.value or (lane is not None and not lane[0].value)

    @contextlib.asynccontextmanager
    async def _database(self, tenant: TenantId) -> AsyncIterator[_Database]:
        database = self._databases.get(tenant)
        if database is None:
            database = self._databases[tenant] = _Database(tenant)
        self._databases.move_to_end(tenant)
        database.users += 1
        try:
            await self._make_room()
            async with database.opening:
                if database.connection is None:
                    await in_thread(
                        lambda: database.open(self._settings, self.access),
                        lambda: None,
                        self._threads,
                    )
                    self._opened += 1
            yield database
        finally:
            database.users -= 1
            if database.is_retired and not database.users:
                await self._close(database)

    async def _make_room(self) -> None:
        """Closes the idle databases that were used longest ago. There is always one to close: no
        more queries run at once than databases may be open."""
        while len(self._databases) > self._settings.instances_max:
            idle = next(one for one in self._databases.values() if not one.users)
            del self._databases[idle.tenant]
            await self._close(idle)

    async def _close(self, database: _Database) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(database.close, limiter=self._threads)
