"""The one importer of DuckDB: locked databases, one per tenant, and the connections of queries.

A database may read its tenant's directories and nothing else, and nobody can change that any more
once it is open, not even we. Lives in a process of queries (`__main__.py`), which has walls of the
operating system around it. Knows no frames and no rule of what a query may be.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import certifi
import duckdb
import pyarrow as pa

from engine.base import limits
from engine.base.errors import ArchiveUnreachable
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.query.child import failures
from engine.query.child.statements import Parsed, too_wide
from engine.query.ports import StoreAccess

Parameters = Sequence[object] | dict[str, object]  # by position, or by name


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

    def batches(self, rows_max: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The same as Arrow has it, the types as they are."""
        with self._session.translated():
            limited = self._relation.limit(rows_max)
            reader = limited.to_arrow_reader(limits.query_rows_per_fetch)
        return reader.schema, self._read(reader)

    def _read(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                with self._session.translated():
                    batch = reader.read_next_batch()
            except StopIteration:
                return
            yield batch


class Session:
    """One question's connection; used in one thread, interrupted from any."""

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

    def store(self, name: str, stream: bytes) -> None:
        """The rows of an Arrow stream as a table of this connection alone. A table and no view of
        them: DuckDB pushes filters of a join into a scan of Arrow, which cannot carry them out."""
        with self.translated(), pa.ipc.open_stream(stream) as reader:
            self._connection.register("arriving", reader)
            try:
                self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM arriving")
            finally:
                self._connection.unregister("arriving")

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
        except (pa.ArrowException, OSError) as error:
            # What the driver raises while Arrow reads from it comes as text.
            name = failures.exception_name(str(error))
            raise failures.translate(name, str(error), self._access) from error


def _locked(
    tenant: TenantId, settings: QuerySettings, access: StoreAccess, scratch: Path
) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{settings.instance_bytes // limits.KIB}KiB",
            "threads": str(settings.threads),
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
    connection.execute(f"LOAD {_quoted(str(httpfs()))}")
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


def httpfs() -> Path:
    """The signed extension of exactly this DuckDB, out of its wheel."""
    found = importlib.util.find_spec("duckdb_extension_httpfs")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "extensions" / f"v{duckdb.__version__}"
    return folder / "httpfs.duckdb_extension"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Databases:
    """Some tenants' databases, of which the one used longest ago makes room. Of one thread."""

    def __init__(
        self, settings: QuerySettings, access: StoreAccess, scratch: Path, *, open_max: int
    ) -> None:
        self._settings = settings
        self._access = access
        self._scratch = scratch
        self._open_max = open_max
        self._open: OrderedDict[TenantId, duckdb.DuckDBPyConnection] = OrderedDict()
        self._opened = 0

    @contextlib.contextmanager
    def session(self, tenant: TenantId) -> Iterator[Session]:
        session = Session(self._of(tenant).cursor(), self._access)
        try:
            yield session
        except failures.DatabaseBroken:
            self.forget(tenant)
            raise
        finally:
            session.close()

    def forget(self, tenant: TenantId) -> None:
        """The next question gets a new database, that remembers nothing of the files."""
        connection = self._open.pop(tenant, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        for tenant in list(self._open):
            self.forget(tenant)

    def _of(self, tenant: TenantId) -> duckdb.DuckDBPyConnection:
        connection = self._open.get(tenant)
        if connection is None:
            if len(self._open) >= self._open_max:
                self.forget(next(iter(self._open)))
            self._opened += 1
            # DuckDB lets a query read its scratch directory: nobody else's may be in there.
            scratch = self._scratch / f"{self._opened}"
            connection = self._open[tenant] = _opened(tenant, self._settings, self._access, scratch)
        self._open.move_to_end(tenant)
        return connection


def _opened(
    tenant: TenantId, settings: QuerySettings, access: StoreAccess, scratch: Path
) -> duckdb.DuckDBPyConnection:
    scratch.mkdir()
    try:
        return _locked(tenant, settings, access, scratch)
    except duckdb.Error as error:
        raise ArchiveUnreachable(
            f"the database for queries cannot be opened: {failures.cleaned(str(error), access)}"
        ) from error


def warm_up() -> None:
    """Loads what a first query would have to wait for."""
    with duckdb.connect(":memory:", config={"threads": "1"}) as connection:
        # Nothing of its answer may be there any more when the connection is closed.
        connection.sql("SELECT 1").to_arrow_reader(1).read_all()
