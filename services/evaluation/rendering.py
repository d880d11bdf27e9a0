"""Renders templates over the columns of a row: sandboxed, strict, deterministic and of bounded size.

Rows are only ever values of a template, never part of its text, so braces in them mean nothing. The sandbox keeps a
task file from reaching Python objects. What keeps an honest mistake from eating the machine: at most two nested loops,
``jinja2``'s own limit of ``range``, no macros, includes or inheritance, no padding to a width, no ``*`` or ``%`` on
text, and a limit on the output. Nothing random is available: the same row always renders to the same text.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2 import TemplateError as JinjaTemplateError
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.evaluation.errors import RenderingError, TemplateError

MAX_RENDERED_CHARACTERS = 1_000_000
MAX_LIST_LENGTH = 10_000
_MAX_LOOP_DEPTH = 2

_STATEMENTS = (nodes.Output, nodes.For, nodes.If, nodes.Assign, nodes.With)
_FILTERS = [
    "abs",
    "batch",
    "capitalize",
    "default",
    "d",
    "dictsort",
    "first",
    "float",
    "int",
    "items",
    "join",
    "last",
    "length",
    "count",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "trim",
    "unique",
    "upper",
    "wordcount",
]
_DENIED_METHODS = frozenset({"center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"})


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja2's immutable sandbox without what can grow without bound; the key of a mapping wins over its methods."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(side, int | float) for side in (left, right)):
            raise SecurityError(f"`{operator}` is for numbers only" if operator != "**" else "`**` is not allowed")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def make_globals(self, d: Any) -> MutableMapping[str, Any]:
        """A dict: copying jinja2's own chain of maps, as each rendering does, takes half as long as rendering."""
        return {**self.globals, **(d or {})}

    def wrap_str_format(self, value: Any) -> None:
        """Not wrapped, so that ``is_safe_attribute`` sees ``str.format`` and refuses it."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _DENIED_METHODS and super().is_safe_attribute(obj, attr, value)


class Renderer:
    """Compiles the templates and expressions of a task."""

    def __init__(self) -> None:
        environment = _Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
        environment.filters = {name: environment.filters[name] for name in _FILTERS}
        environment.filters["regex_replace"] = _regex_replace
        environment.filters["regex_find"] = _regex_find
        environment.filters["positions"] = _positions
        environment.globals = {"range": environment.globals["range"]}
        self._environment = environment

    def template(self, source: str) -> "Template":
        """Compile text with ``{{ }}`` and ``{% %}``.

        Raises:
            TemplateError: its syntax is wrong or it uses what the sandbox does not have.
        """
        names = self._check(source)
        compiled = _compile(source, self._environment.from_string, source)
        return Template(source, names, compiled)

    def expression(self, source: str) -> "Expression":
        """Compile what stands between ``{{`` and ``}}``.

        Raises:
            TemplateError: its syntax is wrong or it uses what the sandbox does not have.
        """
        if "{%" in source or "{{" in source:
            raise TemplateError(f"an expression stands without braces: {source!r}")
        names = self._check("{{ (" + source + "\n) }}")
        compiled = _compile(source, self._environment.compile_expression, source, undefined_to_none=False)
        return Expression(source, names, compiled)

    def _check(self, source: str) -> frozenset[str]:
        """Refuse statements that are not allowed; return the names that the source needs."""
        tree: nodes.Template = _compile(source, self._environment.parse, source)
        for statement in tree.find_all(nodes.Stmt):
            if not isinstance(statement, _STATEMENTS) or (isinstance(statement, nodes.For) and statement.recursive):
                raise TemplateError(f"line {statement.lineno}: {type(statement).__name__.lower()} is not allowed")
        if _loop_depth(tree) > _MAX_LOOP_DEPTH:
            raise TemplateError(f"loops may be nested {_MAX_LOOP_DEPTH} deep")
        for used in tree.find_all(nodes.Filter):
            if used.name not in self._environment.filters:
                known = ", ".join(sorted(self._environment.filters))
                raise TemplateError(f"line {used.lineno}: no filter named {used.name!r}; known: {known}")
        if tree.find(nodes.NSRef) is not None:
            raise TemplateError("values cannot be assigned to attributes")
        names: set[str] = _compile(source, find_undeclared_variables, tree)
        return frozenset(names) - {"range"}


class Template:
    """A compiled template and the names that it uses."""

    def __init__(self, source: str, names: frozenset[str], compiled: Any) -> None:
        self.source = source
        self.names = names
        self._compiled = compiled

    def render(self, values: Mapping[str, Any]) -> str:
        """Render to text.

        Raises:
            RenderingError: a value is missing or of the wrong kind, or the output is too long or no Unicode text.
        """
        return _checked_text("".join(_run(lambda: _bounded(self._compiled.generate(dict(values))))))


class Expression:
    """A compiled expression and the names that it uses."""

    def __init__(self, source: str, names: frozenset[str], compiled: Callable[..., Any]) -> None:
        self.source = source
        self.names = names
        self._compiled = compiled
        # Most expressions are the name of a column, which takes no template to look up.
        self._column = source.strip() if names == {source.strip()} else None

    def value(self, values: Mapping[str, Any]) -> Any:
        """Evaluate to plain data: text, number, boolean, ``None``, list or dict of such.

        Raises:
            RenderingError: a value is missing or of the wrong kind, or the result is no plain data.
        """
        if self._column is not None and self._column in values:
            found = values[self._column]
            return _run(lambda: plain(found))
        return _run(lambda: plain(self._compiled(dict(values))))


def plain(value: Any) -> Any:
    """Restate ``value`` as plain data; lazy sequences become lists.

    Raises:
        RenderingError: it holds something else, or a sequence is too long.
    """
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        items = list(itertools.islice(value, MAX_LIST_LENGTH + 1))
        if len(items) > MAX_LIST_LENGTH:
            raise RenderingError(f"a list has more than {MAX_LIST_LENGTH} entries")
        return [plain(each) for each in items]
    raise RenderingError(f"the result is {type(value).__name__}, not text, number, list or mapping")


def _loop_depth(node: nodes.Node) -> int:
    deepest = max((_loop_depth(child) for child in node.iter_child_nodes()), default=0)
    return deepest + isinstance(node, nodes.For)


def _compile(source: str, compile_source: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return compile_source(*arguments, **options)
    except (JinjaTemplateError, RecursionError, SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        raise TemplateError(f"{where}{getattr(error, 'message', None) or error}") from error


def _run(render: Callable[[], Any]) -> Any:
    """Run template code; whatever goes wrong in it is the row's error, not ours."""
    try:
        return render()
    except RenderingError:
        raise
    except (JinjaTemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, re.error) as error:
        raise RenderingError(str(error) or type(error).__name__) from error
    except (RecursionError, MemoryError) as error:
        raise RenderingError(f"the template needs too much: {type(error).__name__}") from error


def _bounded(pieces: Iterable[str]) -> list[str]:
    result: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_RENDERED_CHARACTERS:
            raise RenderingError(f"the rendered text is longer than {MAX_RENDERED_CHARACTERS} characters")
        result.append(piece)
    return result


def _checked_text(text: str) -> str:
    """Refuse lone surrogates, which JSON can smuggle in and no wire format can carry."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RenderingError(f"the rendered text is no valid Unicode at character {error.start}") from error
    return text


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    """``re.sub``, named and ordered as in lm-evaluation-harness."""
    return re.sub(pattern, replacement, text, count=count)


def _positions(values: Iterable[Any], wanted: Any) -> list[int]:
    """Where ``wanted`` stands in a list, from 0."""
    return [index for index, value in enumerate(values) if value == wanted]


def _regex_find(text: str, pattern: str) -> list[Any]:
    """``re.findall``."""
    return re.findall(pattern, text)
