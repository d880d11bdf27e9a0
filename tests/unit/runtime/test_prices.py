import json
from pathlib import Path

import pytest

from services.generation.requests import Usage
from services.runtime.errors import StartupError
from services.runtime.prices import Price, PriceTable, read_price_table

USAGE = Usage(
    prompt_tokens=1000,
    completion_tokens=500,
    engine_seconds=2.0,
    computed_prompt_tokens=600,
    computed_completion_tokens=400,
    prefix_saved_tokens=400,
    cache_saved_tokens=100,
)


def table(folder: Path, content: object) -> Path:
    path = folder / "prices.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_without_a_table_everything_is_free() -> None:
    assert read_price_table(None).nano_usd("m", "vllm", USAGE) == 0


def test_only_what_was_computed_costs() -> None:
    assert Price(usd_per_engine_second=0.001).nano_usd(USAGE) == 2_000_000
    assert Price(usd_per_million_prompt_tokens=0.5).nano_usd(USAGE) == 300_000
    assert Price(usd_per_million_completion_tokens=2.0).nano_usd(USAGE) == 800_000
    assert Price("*", "*", 0.001, 0.5, 2.0).nano_usd(USAGE) == 3_100_000
    assert Price("*", "*", 1.0, 1.0, 1.0).nano_usd(Usage(9, 9, 0.0, cache_saved_tokens=18)) == 0


def test_the_first_match_counts(tmp_path: Path) -> None:
    prices = [
        {"models": "big-*", "engine": "vllm", "usd_per_engine_second": 0.004},
        {"models": "big-*", "usd_per_engine_second": 0.002},
        {"engine": "vllm", "usd_per_engine_second": 0.001},
    ]
    read = read_price_table(table(tmp_path, {"prices": prices}))
    asked = [("big-1", "vllm"), ("big-1", "transformers"), ("small", "vllm"), ("small", "transformers")]
    assert [read.nano_usd(model, engine, USAGE) for model, engine in asked] == [8_000_000, 4_000_000, 2_000_000, 0]


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        [],
        {"prices": {}},
        {"price": []},
        {"prices": [3]},
        {"prices": [{"model": "x"}]},
        {"prices": [{"models": 3}]},
        {"prices": [{"usd_per_engine_second": -1}]},
        {"prices": [{"usd_per_engine_second": "1"}]},
        {"prices": [{"usd_per_engine_second": True}]},
        '{"prices": [{"usd_per_engine_second": NaN}]}',
        '{"prices": [{"usd_per_engine_second": Infinity}]}',
    ],
)
def test_mistakes_in_a_table_are_reported(tmp_path: Path, content: object) -> None:
    with pytest.raises(StartupError, match="EVALFLEET_PRICE_TABLE"):
        read_price_table(table(tmp_path, content))


def test_a_table_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="EVALFLEET_PRICE_TABLE"):
        read_price_table(tmp_path / "absent.json")


def test_an_empty_table_is_free() -> None:
    assert PriceTable([]).nano_usd("m", "e", USAGE) == 0
