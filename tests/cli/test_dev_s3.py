"""`engine dev --s3 URL`: a runtime whose ended runs go to an S3 server, from the first start on."""

from __future__ import annotations

from pathlib import Path

from minio import Minio

from engine.sdk import Client
from tests.cli.running import running
from tests.cli.s3_server import s3_server


def test_ended_runs_go_to_the_bucket_that_it_makes(tmp_path: Path) -> None:
    with s3_server() as url:
        with (
            running("tests.cli.workflows", tmp_path / "data", "--s3", url) as runtime,
            Client(runtime.http) as client,
        ):
            assert client.run("greet", "Ann") == "Hello, Ann"
            assert client.archive_flush().runs == 1
            status = client.archive_status()
            assert (status.url, status.archived_runs) == ("s3://engine/engine", 1)
            found = client.query("SELECT component, output FROM runs")
            assert found.rows == [("greet", '"Hello, Ann"')]
            assert found.skipped == ()
            assert client.archive_verify().problems == ()
        endpoint = url.removeprefix("http://")
        store = Minio(endpoint, "minioadmin", "minioadmin", secure=False, region="us-east-1")
        names = [found.object_name for found in store.list_objects("engine", recursive=True)]
    assert sorted(str(name).split("/")[1] for name in names) == ["journal", "runs", "steps"]
    assert not (tmp_path / "data" / "archive").exists()
