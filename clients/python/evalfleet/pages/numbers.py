"""Numbers as pages show them."""


def number(value: float | None) -> str:
    """Show a value with three decimals; a dash for none."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def span(lower: float, upper: float) -> str:
    """Show an interval."""
    return f"{number(lower)} … {number(upper)}"


def signed(value: float | None) -> str:
    """Show a difference with its sign; a dash for none."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def count(value: int) -> str:
    """Show a whole number with separators."""
    return f"{value:,}"


def share(part: float, whole: float) -> str:
    """Show a part of a whole in per cent; a dash where there is no whole."""
    return "–" if not whole else f"{part / whole:.1%}"


def money(usd: float) -> str:
    """Show a price; small ones with as many decimals as they need."""
    return f"${usd:,.2f}" if usd >= 1 or usd == 0 else f"${usd:.6f}".rstrip("0")


def seconds(value: float) -> str:
    """Show a time: ``0.4 s``, ``75 s``, ``2.1 h``."""
    if value >= 7200:
        return f"{value / 3600:,.1f} h"
    return f"{value:,.1f} s" if value < 10 else f"{value:,.0f} s"
