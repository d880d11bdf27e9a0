"""Templates: rows are only values, nothing escapes the sandbox, nothing grows without bound."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.evaluation.errors import RenderingError, TemplateError
from services.evaluation.rendering import MAX_LIST_LENGTH, MAX_RENDERED_CHARACTERS, Renderer, plain

RENDERER = Renderer()


def render(source: str, **values: Any) -> str:
    return RENDERER.template(source).render(values)


def value_of(source: str, **values: Any) -> Any:
    return RENDERER.expression(source).value(values)


texts = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None)
@given(texts)
def test_a_row_appears_in_the_prompt_exactly_as_it_is(text: str) -> None:
    assert render("Q: {{ question }}\nA:", question=text) == f"Q: {text}\nA:"


@pytest.mark.parametrize(
    "text",
    [
        "{{ 7 * 7 }}",
        "{% for x in y %}",
        "{# gone #}",
        "'\"\\",
        "<b>&amp;",
        "a\x85b\u2028c",
        "a\x00b",
        "a\r\nb\n",
        "%s %(x)s {0}",
    ],
)
def test_text_that_looks_like_markup_means_nothing(text: str) -> None:
    assert render("{{ q }}", q=text) == text
    assert value_of("q", q=text) == text


@settings(deadline=None)
@given(
    st.dictionaries(st.text(min_size=1), st.none() | st.integers() | texts | st.lists(texts, max_size=3), max_size=4)
)
def test_a_row_survives_an_expression_unchanged(row: dict[str, Any]) -> None:
    assert value_of("row", row=row) == row


@pytest.mark.parametrize("name", ["self", "loop", "range", "items", "keys", "def", "context"])
def test_columns_may_be_called_like_anything(name: str) -> None:
    assert value_of("row[name]", row={name: "x"}, name=name) == "x"
    assert value_of(f"row.{name}", row={name: "x"}) == "x"


@settings(deadline=None)
@given(st.text("abelnortu_1", min_size=1, max_size=5), st.integers() | texts | st.lists(texts, max_size=2))
@example("true", 0)
@example("none", 0)
def test_the_name_of_a_column_means_what_it_means_in_a_longer_expression(name: str, value: Any) -> None:
    try:
        expected = value_of(f"[{name}]", **{name: value})[0]
    except TemplateError:
        with pytest.raises(TemplateError):
            RENDERER.expression(name)
        return
    assert value_of(name, **{name: value}) == value_of(f" {name} ", **{name: value}) == expected


def test_the_name_of_a_column_that_is_not_there_or_no_data_is_an_error() -> None:
    for row in ({}, {"answer": object()}, {"answer": [b"bytes"]}):
        with pytest.raises(RenderingError):
            value_of("answer", **row)


def test_a_final_line_feed_of_a_template_stays() -> None:
    assert render("a\n") == "a\n"


ESCAPES = [
    "''.__class__",
    "''.__class__.__mro__[1].__subclasses__()",
    "row.__init__.__globals__",
    "''['__class__']",
    "row | attr('__class__')",
    "[''] | map(attribute='__class__') | list",
    "range.__self__",
    "cycler.__init__.__globals__.os",
    "lipsum.__globals__",
    "joiner()",
    "namespace(a=1)",
    "dict(a=1)",
    "self.__init__",
    "row.update({'a': 1})",
    "row.pop('q')",
    "row.values().__class__",
    "items.append(1)",
    "items.sort()",
    "'{0.__class__}'.format(1)",
    "'{:>999999999}'.format('')",
    "'%999999999d' % 1",
    "'x'.ljust(999999999)",
    "'x'.center(999999999)",
    "'7'.zfill(999999999)",
    "'x' * 999999999",
    "[0] * 999999999",
    "9 ** 9 ** 9",
    "items | random",
    "'x' | center(999999999)",
    "'x' | format",
    "'x' | pprint",
    "'x' | tojson | safe",
    "range(999999999) | list",
    "get_flashed_messages()",
    "open('/etc/passwd')",
    "import os",
    "os.system('true')",
    "q}}{{ 1",
    "q) }}{% macro m() %}{% endmacro %}{{ (q",
    "",
    "(",
    "q +",
    "q | nosuchfilter",
    "q is nosuchtest",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_an_expression_cannot_leave_the_sandbox(source: str) -> None:
    row = {"q": "text"}
    items = [3, 1, 2]
    with pytest.raises((TemplateError, RenderingError)):
        value_of(source, q="text", row=row, items=items)
    assert row == {"q": "text"}
    assert items == [3, 1, 2]


@pytest.mark.parametrize(
    "source",
    [
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% block a %}{% endblock %}",
        "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('x') }}",
        "{% call m() %}{% endcall %}",
        "{% filter upper %}x{% endfilter %}",
        "{% set ns.a = 1 %}",
        "{% for x in tree recursive %}{{ loop(x) }}{% endfor %}",
        "{% for a in q %}{% for b in q %}{% for c in q %}{% endfor %}{% endfor %}{% endfor %}",
        "{% do q.append(1) %}",
        "{% for x in q %}",
        "{{ q",
    ],
)
def test_a_template_has_loops_and_conditions_and_nothing_else(source: str) -> None:
    with pytest.raises(TemplateError):
        RENDERER.template(source)


def test_conditions_loops_and_assignments_work() -> None:
    source = "{% set n = 2 %}{% for x in xs %}{% if x > n %}{{ x }},{% endif %}{% endfor %}"
    assert render(source, xs=[1, 2, 3, 4]) == "3,4,"


def test_endless_output_is_cut_off() -> None:
    with pytest.raises(RenderingError, match="longer than"):
        render("{% for a in range(99999) %}{% for b in range(99999) %}0123456789{% endfor %}{% endfor %}")
    assert len(render("{{ q }}", q="x" * MAX_RENDERED_CHARACTERS)) == MAX_RENDERED_CHARACTERS
    with pytest.raises(RenderingError, match="longer than"):
        render("{{ q }}!", q="x" * MAX_RENDERED_CHARACTERS)


def test_long_lists_are_refused() -> None:
    with pytest.raises(RenderingError, match="more than"):
        value_of("range(99999)")
    assert len(value_of("range(n)", n=MAX_LIST_LENGTH)) == MAX_LIST_LENGTH


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ missing }}", "'missing' is undefined"),
        ("{{ row.nope }}", "no attribute 'nope'"),
        ("{{ number.strip() }}", "no attribute 'strip'"),
        ("{{ xs[9] }}", "9"),
        ("{{ xs.index(7) }}", "not in list"),
        ("{{ 1 / zero }}", "division by zero"),
        ("{{ number + 'x' }}", "unsupported operand"),
        ("{{ q | regex_replace('(', '') }}", "unterminated subpattern"),
        ("{% for x in number %}{% endfor %}", "not iterable"),
    ],
)
def test_a_row_on_which_a_template_fails_is_an_error_with_a_reason(source: str, says: str) -> None:
    with pytest.raises(RenderingError, match=says):
        render(source, row={"q": 1}, number=5, xs=[1], zero=0, q="x")


def test_half_a_surrogate_pair_is_refused_because_no_wire_can_carry_it() -> None:
    with pytest.raises(RenderingError, match="no valid Unicode at character 3"):
        render("Q: {{ q }}", q="\ud83d")


def test_expressions_give_plain_data() -> None:
    assert value_of("xs | map('upper') | select('ne', 'B')", xs=["a", "b", "c"]) == ["A", "C"]
    assert value_of("{'a': (1, 2)}") == {"a": [1, 2]}
    assert value_of("q.strip().split(' ')[-1]", q=" a b ") == "b"
    assert value_of("q | regex_replace('[0-9]+', '#')", q="a12b3") == "a#b#"
    assert value_of("q | positions(1)", q=[1, 0, 1, "1"]) == [0, 2]
    assert value_of("q | regex_find('[0-9]+')", q="a12b3") == ["12", "3"]
    with pytest.raises(RenderingError, match="Renderer"):
        plain(RENDERER)
    with pytest.raises(RenderingError):
        value_of("q.strip", q="x")


def test_the_names_that_a_template_uses_are_known_before_it_is_rendered() -> None:
    template = RENDERER.template("{% for c in choices %}{{ c }}{{ letters[loop.index0] }}{% endfor %}{{ range(2) }}")
    assert template.names == {"choices", "letters"}
    assert RENDERER.expression("a + b[c]").names == {"a", "b", "c"}
