"""Crafted responses to IFEval's rows: some follow, most do not, and many nearly do. Seeded, so always the same.

Used by the test and by what asks lm-evaluation-harness for its verdicts (``lm_eval_verdicts.py``).
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

OUTPUTS_PER_ROW = 16

_SENTENCES = (
    "The committee met on Tuesday to talk about the new bridge.",
    "Dr. Jones, who lives in the U.S., said that it costs approx. 3.5 million dollars.",
    'She asked: "Is it worth it?" Nobody answered...',
    "HELLO WORLD! DON'T PANIC, IT'S ONLY A TEST; THE CAT'S-EYE ISN'T REAL.",
    "Please write to [name] at [address], or call [phone number].",
    "*First point* is short, **second point** is longer, and ** ** is empty.",
    "A list follows, e.g. of J. R. R. Tolkien's books, etc. and so on.",
    "Wait... what? Really?! Yes.",
    "my answer is no. My answer is maybe.",
    "Это предложение написано на русском языке.",
    "Dieser Satz ist auf Deutsch geschrieben, und er ist nicht sehr lang.",
    "यह वाक्य हिन्दी में लिखा गया है और बहुत लंबा नहीं है।",
    "Questa frase è scritta in italiano e parla di cucina.",
    "one two three four five six seven eight nine ten",
)
_ENDS = ("P.S. I forgot this.", "P.P.S. And this.", "p. s. small", "Is there anything else I can help with?", "***")


def outputs(row: Mapping[str, Any]) -> Sequence[str]:
    """Crafted responses to one row."""
    draw = random.Random(f"ifeval {row['key']}")
    fixed = ["", "  \n", row["prompt"], _obedient(row, draw)]
    return [*fixed, *(_mixed(row, draw) for _ in range(OUTPUTS_PER_ROW - len(fixed)))]


def _words_of(row: Mapping[str, Any]) -> Iterator[str]:
    for arguments in row["kwargs"]:
        for value in arguments.values():
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield from (each for each in value if isinstance(each, str))


def _numbers_of(row: Mapping[str, Any]) -> list[int]:
    numbers = [value for arguments in row["kwargs"] for value in arguments.values() if isinstance(value, int)]
    return [number for number in numbers if number <= 60] or [2]


def _obedient(row: Mapping[str, Any], draw: random.Random) -> str:
    """Tries to follow: the prompt to repeat, sections, paragraphs, bullets, keywords, the end."""
    count = draw.choice(_numbers_of(row))
    first = [value for arguments in row["kwargs"] for name, value in arguments.items() if name == "prompt_to_repeat"]
    words = [word for word in _words_of(row) if word not in first]
    parts = [*first, "<<A title>>", " ".join(words * count)]
    parts += [f"* point {index}" for index in range(count)]
    parts += [f"Section {index + 1}\n*bright {index}* text." for index in range(count)]
    return "\n\n".join([*parts, words[-1] if words else "The end."])


def _mixed(row: Mapping[str, Any], draw: random.Random) -> str:
    words = list(_words_of(row))
    count = max(1, draw.choice(_numbers_of(row)) + draw.choice((-1, 0, 0, 1)))
    pieces = draw.choices(_SENTENCES, k=draw.randint(1, 12))
    if words:
        pieces += draw.choices(words, k=draw.choice((1, count)))
    pieces += draw.choices(
        (f"* point {count}", "- dash", "  * indented", "Section 1", "SECTION 2 text", "PARAGRAPH 3"), k=3
    )
    draw.shuffle(pieces)
    text = draw.choice((" ", "\n", "\n\n", "\n\n", "\n***\n", "\n******\n", " ")).join(pieces)
    if draw.random() < 0.3:
        text = draw.choice((", ", "\n***\n", "\n\n")).join(f"part {index}" for index in range(count))
    if draw.random() < 0.3:
        text = text.replace(",", "")
    text = draw.choice((str.upper, str.lower, str, str, str))(text)
    wrapped = (
        f'"{text}"',
        f'```json\n{{"answer": {count}}}\n```',
        f"<<title>>\n{text}",
        f"Sure!\n{text}",
        f"{row['prompt']}\n{text}",
        f"{text}\n{draw.choice(_ENDS)}",
        f"{text}\n{words[-1]}" if words else text,
        text,
        text,
    )
    return draw.choice(wrapped)
