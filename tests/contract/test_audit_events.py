"""docs/security.md lists every event of the audit log, and none that nobody writes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from services.runtime.security.guard import AUDITED_METHODS

ROOT = Path(__file__).parents[2]
WRITERS = {"record", "refused", "_record"}


def written_events() -> Iterator[str]:
    """Names that modules which import the audit log give to it."""
    yield from AUDITED_METHODS.values()
    for path in (ROOT / "services").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "AuditLog" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
                if called in WRITERS or called == "_Allowance":
                    yield str(node.args[0].value)


def test_the_page_lists_every_event() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    table = page.partition("## Audit log")[2].partition("| event | when |\n|---|---|\n")[2].partition("\n\n")[0]
    listed = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    written = set(written_events())
    assert {"access_denied", "tls_handshake_refused_more", "model_loaded"} <= written
    assert listed == written
