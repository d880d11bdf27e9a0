"""The harness's Jinja2 templates as ours, which run in a sandbox, and as the expressions that some fields need."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import jinja2
from jinja2 import meta, nodes

_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What the service's sandbox has: docs/tasks.md.
_STATEMENTS = (nodes.Output, nodes.For, nodes.If, nodes.Assign, nodes.With)
_FILTERS = frozenset({
    "abs", "batch", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join", "last",
    "length", "list", "lower", "map", "max", "min", "regex_replace", "reject", "rejectattr", "replace", "reverse",
    "round", "select", "selectattr", "slice", "sort", "string", "sum", "title", "trim", "unique", "upper", "wordcount",
})  # fmt: skip
_DENIED_METHODS = frozenset({"center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"})
_ENVIRONMENT = jinja2.Environment(keep_trailing_newline=True, autoescape=False)


class UntranslatableError(Exception):
    """A template uses what the sandbox does not have, or is no single value."""


@dataclass(frozen=True, slots=True)
class JinjaText:
    """A template of the harness.

    Attributes:
        source: as it stands there.
        columns: what it reads of a row.
    """

    source: str
    columns: frozenset[str]

    @classmethod
    def parse(cls, source: str) -> "JinjaText":
        """Check a template; the name of a column alone stands for the column.

        Raises:
            UntranslatableError: its syntax is wrong, or the sandbox lacks what it uses.
        """
        if is_column(source):
            return cls("{{ " + source + " }}", frozenset({source}))
        try:
            tree = _ENVIRONMENT.parse(source)
        except jinja2.TemplateSyntaxError as error:
            raise UntranslatableError(f"it is no template: {error.message}") from error
        for problem in _problems(tree):
            raise UntranslatableError(problem)
        return cls(source, frozenset(meta.find_undeclared_variables(tree)) - {"range"})

    def as_expression(self) -> str:
        """Return the template as one expression: its only value, or its parts joined to a text.

        Raises:
            UntranslatableError: it has statements.
        """
        parts: list[str] = []
        value = ""
        for _, kind, text in _ENVIRONMENT.lex(self.source):
            match kind:
                case "data":
                    parts.append(repr(text))
                case "variable_begin":
                    value = ""
                case "variable_end":
                    parts.append(f"({value.strip()})")
                case "block_begin" | "comment_begin":
                    raise UntranslatableError("it has statements where one value is needed")
                case _:
                    value += text
        if len(parts) == 1:
            return parts[0].removeprefix("(").removesuffix(")") if parts[0].startswith("(") else parts[0]
        return " ~ ".join(parts) or "''"


def is_column(text: str) -> bool:
    """Whether a text is the name of a column rather than a template."""
    return _COLUMN.fullmatch(text) is not None


def _problems(tree: nodes.Template) -> Iterator[str]:
    for statement in tree.find_all(nodes.Stmt):
        if not isinstance(statement, _STATEMENTS):
            yield f"the sandbox has no {type(statement).__name__.lower()}"
    for used in tree.find_all(nodes.Filter):
        if used.name not in _FILTERS:
            yield f"the sandbox has no filter {used.name!r}"
    for attribute in tree.find_all(nodes.Getattr):
        if attribute.attr.startswith("_") or attribute.attr in _DENIED_METHODS:
            yield f"the sandbox has no attribute {attribute.attr!r}"
    if tree.find(nodes.Pow) is not None:
        yield "the sandbox has no `**`"
    if tree.find(nodes.NSRef) is not None:
        yield "the sandbox assigns to no attributes"
    if _loop_depth(tree) > 2:
        yield "its loops are nested more than two deep"


def _loop_depth(node: nodes.Node) -> int:
    deepest = max((_loop_depth(child) for child in node.iter_child_nodes()), default=0)
    return deepest + isinstance(node, nodes.For)
