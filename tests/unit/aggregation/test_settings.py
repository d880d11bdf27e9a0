"""Where the ledger is."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from services.aggregation.settings import AggregationSettings
from services.runtime.errors import StartupError


@pytest.mark.parametrize("folder", ["state", "a b", "what?", "a%20b", "50%", "a#b", "zürich"])
def test_the_ledger_is_in_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str) -> None:
    monkeypatch.delenv("EVALFLEET_LEDGER_URL", raising=False)
    monkeypatch.setenv("EVALFLEET_STATE_DIR", str(tmp_path / folder))
    assert make_url(AggregationSettings().database_url).database == str(tmp_path / folder / "ledger.sqlite")


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite", "sqlite+pysqlite"])
def test_a_url_names_another_file(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("EVALFLEET_LEDGER_URL", f"{scheme}:///folder/my.sqlite")
    assert AggregationSettings().database_url == "sqlite+aiosqlite:///folder/my.sqlite"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_url_names_a_server(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("EVALFLEET_LEDGER_URL", f"{scheme}://me:p%40ss@host:5433/evalfleet")
    assert AggregationSettings().database_url == "postgresql+asyncpg://me:p%40ss@host:5433/evalfleet"


@pytest.mark.parametrize(
    "url", ["ledger.sqlite", "sqlite://", "sqlite:///:memory:", "postgresql://host", "http://a/b", "://"]
)
def test_other_urls_are_refused_with_what_to_write(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("EVALFLEET_LEDGER_URL", url)
    with pytest.raises(StartupError, match="sqlite:///") as caught:
        _ = AggregationSettings().database_url
    assert caught.value.reason == "DATABASE_URL_INVALID"
