"""Find the program in a text with Markdown code fences."""

import re
from typing import Literal

# How a fence opens; nothing has to follow, so that no text makes the search go back.
_OPENING = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)")
_PYTHON = frozenset({"", "py", "python", "python3", "python2"})


def fenced_code(text: str, take: Literal["nothing", "first_fence", "last_fence"]) -> str:
    """Return what stands in the first or last fence that is marked as Python or not at all.

    The fence may lack its end: a text that was cut off keeps what there is of its program. Without such a fence, or
    if nothing is to be taken out, the whole text is the program.
    """
    if take == "nothing":
        return text
    found: list[str] = []
    lines = text.split("\n")
    position = 0
    while position < len(lines):
        line = lines[position]
        match = _OPENING.match(line)
        position += 1
        # A backtick further on makes it code within a line.
        if match is None or "`" in line[match.end() :]:
            continue
        start = position
        while position < len(lines) and not _closes(lines[position], match[1]):
            position += 1
        if match[2].lower() in _PYTHON:
            found.append("\n".join(lines[start:position]))
            if take == "first_fence":
                break
        position += 1
    return (found[-1] if take == "last_fence" else found[0]) if found else text


def _closes(line: str, fence: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(fence) and set(stripped) == {fence[0]}
