"""Small drawings: where things lie, and what is said in their stead."""

import itertools
import xml.etree.ElementTree as ET

import pytest
from evalfleet.pages.interval_plots import Mark, axis, interval_plot
from evalfleet.pages.scales import Scale, bounds_of, close_bounds, ticks_of
from evalfleet.pages.share_bars import Part, share_bar
from evalfleet.pages.trend_plots import Point, Threshold, trend_plot
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.floats(-1e6, 1e6)


def shapes(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def test_an_interval_lies_where_its_values_are() -> None:
    drawing = shapes(interval_plot(0.5, (0.25, 0.75), (0, 1), description="acc: 0.5", marks=[Mark(1.0, "bound")]))
    [dot] = drawing.findall("circle")
    assert dot.get("cx") == "120.0"
    whiskers = [each for each in drawing.findall("line") if each.get("class") == "whisker"]
    assert [(each.get("x1"), each.get("x2")) for each in whiskers] == [("63.5", "176.5")]
    assert [each.get("x1") for each in drawing.findall("line") if each.get("class") == "mark"] == ["233.0"]
    assert drawing.findtext("title") == "acc: 0.5"


def test_an_interval_that_goes_on_ends_in_arrows() -> None:
    drawing = shapes(interval_plot(0.5, (-3, 7), (0, 1), description=""))
    assert len(drawing.findall("polygon")) == 2
    assert interval_plot(None, None, (0, 1), description="") == ""


@pytest.mark.parametrize(
    ("values", "bounds"), [([0.2, 0.9], (0, 1)), ([], (0, 1)), ([3.0, 41.0], (0, 60)), ([-0.2, 0.3], (-0.2, 0.4))]
)
def test_shares_have_one_scale_and_others_round_ends(values: list[float], bounds: tuple[float, float]) -> None:
    assert bounds_of(values) == pytest.approx(bounds)


@given(st.lists(VALUES, max_size=6))
def test_bounds_hold_their_values_and_ticks_lie_between(values: list[float]) -> None:
    for least, most in (bounds_of(values), close_bounds(values)):
        assert least < most
        assert all(least - 1e-6 <= each <= most + 1e-6 for each in values)
        ticks = ticks_of(least, most)
        assert 2 <= len(ticks) <= 7
        assert all(least - 1e-6 <= each <= most + 1e-6 for each in ticks)


@given(VALUES, VALUES, VALUES)
def test_every_value_has_a_place_on_the_line(least: float, width: float, value: float) -> None:
    assert 10 <= Scale(least, least + abs(width), 10, 20).place(value) <= 20


def test_a_trend_goes_through_its_points_and_says_them() -> None:
    points = [Point(0, "a", 0.2, (0.1, 0.3)), Point(1, "b", None, None), Point(4, "c", 0.4, (0.3, 0.5))]
    drawing = shapes(trend_plot("acc", points, [Threshold(0.35, "at least 0.35")]))
    [line] = drawing.findall("polyline")
    assert len((line.get("points") or "").split()) == 2
    assert drawing.findtext("title") == "acc. a: 0.200 (0.100 … 0.300); b: –; c: 0.400 (0.300 … 0.500)"
    assert "at least 0.35" in [each.text for each in drawing.iter("text")]


def test_labels_of_checkpoints_do_not_lie_over_each_other() -> None:
    points = [Point(n, f"checkpoint-{n:05}", n / 40, None) for n in range(40)]
    shown = [each for each in shapes(trend_plot("acc", points)).iter("text") if each.get("class") == "checkpoint"]
    starts = sorted(float(each.get("x", "0")) for each in shown)
    assert shown[-1].text == "checkpoint-00039"
    assert all(later - earlier > 90 for earlier, later in itertools.pairwise(starts))


def test_parts_of_a_bar_fill_it() -> None:
    bar = share_bar("Tokens", [Part("computed", 25, "part-a"), Part("none", 0, "part-b"), Part("saved", 75, "part-c")])
    drawing = shapes(bar).find("svg")
    assert drawing is not None
    assert [(each.get("x"), each.get("width")) for each in drawing.findall("rect")] == [
        ("0.0", "180.0"),
        ("180.0", "540.0"),
    ]
    assert "saved: 75 (75.0%)" in (drawing.findtext("title") or "")
    assert share_bar("Tokens", [Part("computed", 0, "part-a")]) == ""


def test_an_axis_says_its_ends() -> None:
    assert [each.text for each in shapes(axis((-0.2, 0.2)))] == ["−0.2", "−0.1", "0", "0.1", "0.2"]
