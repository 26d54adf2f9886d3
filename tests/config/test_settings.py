"""Settings: every source, which one wins, and errors that name the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.base import limits
from engine.base.errors import InvalidSettings
from engine.base.limits import MIB
from engine.config.settings import JournalSettings, Settings, load_settings

FILE = """
data_dir = "/from/file"

[journal]
durability = "interval"
flush_interval_ms = 20
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "engine.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def load(
    file: Path | None = None,
    environment: dict[str, str] | None = None,
    **flags: object,
) -> Settings:
    # A keyword cannot have a dot: journal__durability stands for the flag journal.durability.
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(file=file, environment=environment or {}, flags=dotted)


def refusal(
    file: Path | None = None, environment: dict[str, str] | None = None, **flags: object
) -> str:
    with pytest.raises(InvalidSettings) as caught:
        load(file, environment, **flags)
    assert caught.value.code == "invalid_settings"
    return caught.value.message


# ---- sources ----


def test_without_any_source_there_are_defaults() -> None:
    assert load() == Settings()
    assert Settings().journal == JournalSettings(
        durability="commit", flush_interval_ms=10, tenants_open_max=512
    )


def test_the_file(file: Path) -> None:
    settings = load(file)
    assert settings.data_dir == "/from/file"
    assert settings.journal.durability == "interval"
    assert settings.journal.flush_interval_ms == 20
    assert settings.journal.tenants_open_max == JournalSettings().tenants_open_max


def test_the_environment() -> None:
    settings = load(
        environment={
            "ENGINE_DATA_DIR": "/from/environment",
            "ENGINE_JOURNAL__DURABILITY": "os",
            "ENGINE_JOURNAL__BLOCK_CACHE_BYTES": str(2 * MIB),
        }
    )
    assert settings.data_dir == "/from/environment"
    assert settings.journal == JournalSettings(durability="os", block_cache_bytes=2 * MIB)


def test_other_variables_are_not_ours() -> None:
    environment = {"PATH": "/bin", "ENGINE_EXT_DEBUG": "1", "JOURNAL__DURABILITY": "os"}
    assert load(environment=environment) == Settings()


def test_flags() -> None:
    settings = load(data_dir="/from/flag", journal__tenants_open_max="7")
    assert settings.data_dir == "/from/flag"
    assert settings.journal.tenants_open_max == 7


def test_a_flag_that_was_not_given_says_nothing(file: Path) -> None:
    assert load(file, data_dir=None).data_dir == "/from/file"


# ---- which one wins ----


def test_flags_win_over_the_environment_and_that_over_the_file(file: Path) -> None:
    environment = {"ENGINE_DATA_DIR": "/from/environment", "ENGINE_JOURNAL__DURABILITY": "os"}
    assert load(file, environment).data_dir == "/from/environment"
    assert load(file, environment, data_dir="/from/flag").data_dir == "/from/flag"
    assert load(file, environment, data_dir="/from/flag").journal.durability == "os"


def test_sources_are_merged_setting_by_setting(file: Path) -> None:
    settings = load(file, {"ENGINE_JOURNAL__TENANTS_OPEN_MAX": "9"}, journal__flush_interval_ms=30)
    assert settings.journal == JournalSettings(
        durability="interval", tenants_open_max=9, flush_interval_ms=30
    )


# ---- what is not usable ----

BOUNDS = [
    ("flush_interval_ms", limits.flush_interval_ms_min, limits.flush_interval_ms_max),
    ("block_cache_bytes", limits.block_cache_bytes_min, None),
    ("write_buffer_bytes", limits.write_buffer_total_bytes_min, None),
    ("tenants_open_max", limits.tenants_open_min, limits.tenants_open_max),
    ("tenant_idle_close_s", limits.tenant_idle_close_s_min, None),
]


@pytest.mark.parametrize(("name", "least", "most"), BOUNDS, ids=[bound[0] for bound in BOUNDS])
def test_the_bounds_of_each_number(name: str, least: int, most: int | None) -> None:
    assert getattr(load(**{f"journal__{name}": least}).journal, name) == least
    assert f"journal.{name}" in refusal(**{f"journal__{name}": least - 1})
    if most is not None:
        assert getattr(load(**{f"journal__{name}": most}).journal, name) == most
        message = refusal(environment={f"ENGINE_JOURNAL__{name.upper()}": str(most + 1)})
        assert f"journal.{name}" in message
        assert str(most) in message


def test_every_journal_setting_has_a_bound_or_a_list() -> None:
    assert set(JournalSettings.__struct_fields__) == {"durability", *(b[0] for b in BOUNDS)}


@pytest.mark.parametrize("text", ["", "ten", "1.5", "10ms"])
def test_a_number_that_is_none(text: str) -> None:
    message = refusal(environment={"ENGINE_JOURNAL__FLUSH_INTERVAL_MS": text})
    assert "journal.flush_interval_ms" in message


def test_a_mode_that_is_none_is_refused() -> None:
    message = refusal(environment={"ENGINE_JOURNAL__DURABILITY": "fast"})
    assert "journal.durability" in message
    assert "fast" in message


def test_what_is_allowed_is_said() -> None:
    message = refusal(journal__durability="fast")
    assert "commit" in message
    assert "interval" in message


@pytest.mark.parametrize(
    "flags", [{"journal__durabilty": "os"}, {"journl__durability": "os"}, {"datadir": "x"}]
)
def test_a_setting_that_does_not_exist_is_named(flags: dict[str, object]) -> None:
    message = refusal(**flags)
    assert "durabilty" in message or "journl" in message or "datadir" in message


def test_a_variable_that_does_not_exist_is_named() -> None:
    assert "durabilty" in refusal(environment={"ENGINE_JOURNAL__DURABILTY": "os"})


def test_a_group_is_not_a_value(tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    file.write_text('journal = "commit"\n')
    assert "journal" in refusal(file)
    assert "journal" in refusal(file, {"ENGINE_JOURNAL__DURABILITY": "os"})
    assert "journal" in refusal(environment={"ENGINE_JOURNAL": "os"})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.toml") in refusal(tmp_path / "none.toml")


@pytest.mark.parametrize("content", [b"data_dir = ", b"data_dir = '\xff'", b"[journal\n", b"\x00"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "engine.toml"
    file.write_bytes(content)
    assert str(file) in refusal(file)


def test_where_a_bad_setting_came_from_is_said(file: Path) -> None:
    file.write_text("[journal]\nflush_interval_ms = 0\n")
    message = refusal(file)
    assert str(file) in message
    assert "journal.flush_interval_ms" in message
