"""The part of PromQL that scaling queries are written in: instant selectors, aggregation over everything, arithmetic.

What it does not know it refuses, so that no query is simulated as something else than Prometheus would compute.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

Labels: TypeAlias = frozenset[tuple[str, str]]
Vector: TypeAlias = Mapping[Labels, float]
Value: TypeAlias = float | Vector
Matcher: TypeAlias = Callable[[Mapping[str, str]], bool]

_TOKEN: Final = re.compile(
    r'\s*(?:(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)|(?P<name>[a-zA-Z_:][\w:]*)|(?P<text>"(?:[^"\\]|\\.)*")'
    r"|(?P<sign>=~|!~|!=|[-+*/(){},=]))"
)
_AGGREGATIONS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "sum": sum,
    "max": max,
    "min": min,
    "avg": lambda values: sum(values) / len(values),
    "count": len,
}


class Series(Protocol):
    """Where values come from."""

    def select(self, name: str, matches: Matcher) -> Vector:
        """The newest value of each series of a name whose labels match."""
        ...


@dataclass(frozen=True, slots=True)
class Query:
    """A query that was understood.

    Attributes:
        text: as it is written.
        names: of the series that it reads.
    """

    text: str
    names: frozenset[str]
    _evaluate: Callable[[Series], Value]

    @classmethod
    def parse(cls, text: str) -> "Query":
        """Understand a query; raises ValueError for what is not PromQL, or not known here."""
        parser = _Parser(text)
        evaluate = parser.expression()
        parser.end()
        return cls(text, frozenset(parser.names), evaluate)

    def value(self, series: Series) -> float | None:
        """The one value that it has, or None if it has none.

        Raises:
            ValueError: it has several.
        """
        result = self._evaluate(series)
        if isinstance(result, Mapping):
            if len(result) > 1:
                raise ValueError(f"{self.text!r} has {len(result)} values")
            return next(iter(result.values()), None)
        return result


Evaluation: TypeAlias = Callable[[Series], Value]


class _Parser:
    """Recursive descent, in PromQL's precedence: or, then + and -, then * and /."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0
        self.names: set[str] = set()

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise ValueError(f"{self._text!r}: {self._tokens[self._at]!r} is not understood")

    def expression(self) -> Evaluation:
        left = self._operation("+-", lambda: self._operation("*/", self._primary))
        while self._takes("or"):
            left = _either(left, self._operation("+-", lambda: self._operation("*/", self._primary)))
        return left

    def _operation(self, signs: str, operand: Callable[[], Evaluation]) -> Evaluation:
        left = operand()
        while (sign := self._peek()) and sign in signs:
            self._at += 1
            left = _arithmetic(sign, left, operand())
        return left

    def _primary(self) -> Evaluation:
        token = self._next()
        if token == "(":
            inner = self.expression()
            self._expect(")")
            return inner
        if token[0].isdigit():
            number = float(token)
            return lambda _: number
        if not re.fullmatch(r"[a-zA-Z_:][\w:]*", token):
            raise ValueError(f"{self._text!r}: {token!r} is not understood")
        return self._call(token) if self._peek() == "(" else self._selector(token)

    def _call(self, name: str) -> Evaluation:
        self._expect("(")
        arguments = [self.expression()]
        while self._takes(","):
            arguments.append(self.expression())
        self._expect(")")
        if name in _AGGREGATIONS and len(arguments) == 1:
            return _aggregation(_AGGREGATIONS[name], arguments[0])
        if name == "vector" and len(arguments) == 1:
            return lambda series: {frozenset(): _number(arguments[0](series))}
        if name in ("clamp_max", "clamp_min") and len(arguments) == 2:
            return _clamp(min if name == "clamp_max" else max, *arguments)
        raise ValueError(f"{self._text!r}: {name}() with {len(arguments)} arguments is not known here")

    def _selector(self, name: str) -> Evaluation:
        self.names.add(name)
        matchers: list[Matcher] = []
        if self._takes("{"):
            while not self._takes("}"):
                label, sign, text = self._next(), self._next(), self._next()
                matchers.append(_matcher(label, sign, text[1:-1]))
                self._takes(",")
        return lambda series: series.select(name, lambda labels: all(each(labels) for each in matchers))

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        if not token:
            raise ValueError(f"{self._text!r} ends too early")
        self._at += 1
        return token

    def _takes(self, token: str) -> bool:
        found = self._peek() == token
        self._at += found
        return found

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise ValueError(f"{self._text!r}: {token!r} is missing")


def _tokens(text: str) -> Iterator[str]:
    at, text = 0, text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"{text!r}: {text[at:]!r} is not understood")
        yield found.group().strip()
        at = found.end()


def _matcher(label: str, sign: str, text: str) -> Matcher:
    if sign in ("=", "!="):
        return lambda labels: (labels.get(label, "") == text) == (sign == "=")
    if sign in ("=~", "!~"):
        pattern = re.compile(text)
        return lambda labels: bool(pattern.fullmatch(labels.get(label, ""))) == (sign == "=~")
    raise ValueError(f"{sign!r} compares no labels")


def _aggregation(combine: Callable[[Sequence[float]], float], inner: Evaluation) -> Evaluation:
    def evaluate(series: Series) -> Value:
        found = inner(series)
        if not isinstance(found, Mapping):
            raise ValueError("only vectors are aggregated")
        return {frozenset(): combine(list(found.values()))} if found else {}

    return evaluate


def _clamp(choose: Callable[[float, float], float], inner: Evaluation, bound: Evaluation) -> Evaluation:
    def evaluate(series: Series) -> Value:
        found, limit = inner(series), _number(bound(series))
        if not isinstance(found, Mapping):
            raise ValueError("only vectors are clamped")
        return {labels: choose(value, limit) for labels, value in found.items()}

    return evaluate


def _either(first: Evaluation, second: Evaluation) -> Evaluation:
    def evaluate(series: Series) -> Value:
        found, other = first(series), second(series)
        if not isinstance(found, Mapping) or not isinstance(other, Mapping):
            raise ValueError("or is between vectors")
        return {**other, **found}

    return evaluate


def _arithmetic(sign: str, left: Evaluation, right: Evaluation) -> Evaluation:
    def evaluate(series: Series) -> Value:
        one, other = left(series), right(series)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            return {labels: _computed(sign, value, other[labels]) for labels, value in one.items() if labels in other}
        if isinstance(one, Mapping):
            return {labels: _computed(sign, value, _number(other)) for labels, value in one.items()}
        if isinstance(other, Mapping):
            return {labels: _computed(sign, one, value) for labels, value in other.items()}
        return _computed(sign, one, other)

    return evaluate


def _computed(sign: str, one: float, other: float) -> float:
    if sign == "/":
        return one / other if other else float("nan") if one == 0 else float("inf") * (1 if one > 0 else -1)
    return one + other if sign == "+" else one - other if sign == "-" else one * other


def _number(value: Value) -> float:
    if isinstance(value, Mapping):
        raise ValueError("a number is wanted, not a vector")
    return value
