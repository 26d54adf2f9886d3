"""The examples do what they say, through a runtime and a worker that are processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import click
import pytest

from engine.sdk import Client
from examples import approval, fanout, shop, sleeper
from tests.cli.running import ROOT, running

SHORT_DAY_S = 0.01


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    data_dir = tmp_path_factory.mktemp("examples") / "data"
    with running("tests.examples.everything", data_dir) as runtime, Client(runtime.http) as found:
        yield found


def steps_of(client: Client, run_id: str) -> list[str]:
    """The names of its completed steps, in order."""
    records = client.journal(run_id)
    return [record.payload["name"] for record in records if record.kind == "STEP_COMPLETED"]


def newest_run(client: Client, component: str) -> str:
    return client.list(component=component, limit=1).runs[0].run_id


# ---- shop ----


def order(city: str) -> shop.Order:
    return shop.Order("A-7", city=city, items={"teapot": 2, "cup": 6}, cents=4_200)


def test_a_checkout_ships(client: Client) -> None:
    run_id = client.submit(shop.checkout, order("Oslo"))
    receipt = client.result(run_id, component=shop.checkout)
    assert receipt == shop.Receipt("A-7", "shipped", parcel="parcel-A-7-to-Oslo")
    assert steps_of(client, run_id) == ["reserve", "charge", "ship"]


def test_the_bank_is_asked_again(client: Client) -> None:
    run_id = client.submit(shop.checkout, order("Oslo"))
    client.result(run_id)
    failed = [record for record in client.journal(run_id) if record.kind == "STEP_FAILED"]
    assert [record.payload["error"]["message"] for record in failed] == ["the bank does not answer"]


def test_a_checkout_that_cannot_ship_is_undone(client: Client) -> None:
    run_id = client.submit(shop.checkout, order("Atlantis"))
    receipt = client.result(run_id, component=shop.checkout)
    assert receipt == shop.Receipt("A-7", "cancelled", why="no carrier goes to Atlantis")
    assert steps_of(client, run_id) == ["reserve", "charge", "refund", "release"]


def test_shop_main(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    shop.main(client)
    assert capsys.readouterr().out.splitlines() == [
        "A-1 shipped parcel-A-1-to-Oslo",
        "A-2 cancelled no carrier goes to Atlantis",
    ]


# ---- approval ----


def test_a_small_claim_asks_nobody(client: Client) -> None:
    paid = client.run(approval.expenses, approval.Claim("Ann", "tea", cents=350))
    assert paid == "paid 3.50 to Ann for tea"


@pytest.mark.parametrize(
    ("answers", "said", "outcome"),
    [
        ([True], ["Pay 420.00 to Ann for a chair that does not squeak?"], "paid 420.00 to Ann"),
        (
            [False, "we have enough chairs"],
            [
                "Pay 420.00 to Ann for a chair that does not squeak?",
                "Why not? Ann will read it.",
            ],
            "told Ann: we have enough chairs",
        ),
    ],
)
def test_approval_main_asks_in_the_terminal(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[object],
    said: list[str],
    outcome: str,
) -> None:
    asked: list[str] = []

    def answer(question: str) -> object:
        asked.append(question)
        return answers[len(asked) - 1]

    monkeypatch.setattr(click, "confirm", answer)
    monkeypatch.setattr(click, "prompt", answer)
    approval.main(client)
    assert asked == said
    assert capsys.readouterr().out.startswith(outcome)


# ---- fanout ----


def test_numbers_split_without_gap_or_overlap() -> None:
    parts = fanout.Numbers(3, 50).split(7)
    assert [number for part in parts for number in range(part.first, part.end)] == list(
        range(3, 50)
    )


def test_primes_are_counted_once(client: Client) -> None:
    run_id = client.submit(fanout.primes_below, 10_000)
    assert client.result(run_id) == 1_229
    kinds = Counter(record.kind for record in client.journal(run_id))
    assert kinds["CHILD_STARTED"] == kinds["CHILD_FINISHED"] == fanout.SLICES
    one_slice = newest_run(client, "count_slice")
    assert client.get(one_slice).parent_run_id == run_id
    assert steps_of(client, one_slice) == ["count_primes"] * fanout.PARTS_PER_SLICE


# ---- sleeper ----


def test_a_trial_that_nobody_wants_ends(client: Client) -> None:
    run_id = client.submit(sleeper.trial, sleeper.Trial("bob@example.com", SHORT_DAY_S))
    assert client.result(run_id) == "left"
    assert steps_of(client, run_id) == ["send", "send", "send", "delete_data"]
    summary = client.get(run_id)
    assert summary.duration_ms >= 44 * SHORT_DAY_S * 1_000, "nothing is done early"


def test_a_trial_that_somebody_wants(client: Client) -> None:
    run_id = client.submit(sleeper.trial, sleeper.Trial("ann@example.com"))
    client.signal(run_id, "subscribed", "yearly")
    assert client.result(run_id) == "subscribed: yearly"
    assert steps_of(client, run_id) == ["send", "send"]


def test_sleeper_main(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    sleeper.main(client, SHORT_DAY_S)
    assert capsys.readouterr().out == "Ann: subscribed: yearly\nBob: left\n"


# ---- in one line ----


def test_an_example_in_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "examples", "shop"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "A-1 shipped" in result.stdout
    assert "A-2 cancelled" in result.stdout


def test_an_unknown_example_names_the_others() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "examples", "stop"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "shop|approval|fanout|sleeper" in result.stderr
