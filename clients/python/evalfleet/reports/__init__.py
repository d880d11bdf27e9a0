"""Reports of runs: one HTML file that shows what was decided, found, spent and asked.

    facts = gather_report(fleet, ["gsm8k-1a2b3c"])
    Path("report.html").write_text(report_page(facts), encoding="utf-8")

``evalfleet.reports.figures`` draws the same numbers as PNG and SVG; it needs the extra ``plots``.
"""

from evalfleet.reports.document import report_page
from evalfleet.reports.facts import ComparedPair, ReportFacts, RunFacts, ShownItem
from evalfleet.reports.gathering import gather_report

__all__ = ["ComparedPair", "ReportFacts", "RunFacts", "ShownItem", "gather_report", "report_page"]
