"""The filter language of `find`: how it is read, and what it means.

::

    properties.acc > 0.9 AND context = 'exp7' AND NOT (name LIKE 'tmp%' OR state IN ('ARCHIVED', 'PURGED'))

A filter compares fields with constants: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``[NOT] IN (…)``, ``[NOT] LIKE``
(``%`` any text, ``_`` one character, with ``\\`` before what is meant literally), ``IS [NOT] NULL``; joined by ``AND``,
``OR``, ``NOT`` and parentheses. Words of the language may be written in any case. Text stands in single quotes, a quote
within is doubled; a name with odd characters stands in double quotes: ``properties."learning rate"``.

What is absent is NULL, and a comparison with NULL is neither true nor false, as in SQL: an object is found when the
filter is true of it. ``context`` stands for the names of the contexts that an object belongs to; a comparison holds if
it holds for one of them, and ``!=`` and ``NOT IN`` if it does for all.

The grammar is ten rules. It is read by precedence climbing, right here: a parser library would be the only dependency
of this package beyond the client's, and every token's position is wanted for the messages.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

from replica.metadata.errors import FilterError
from replica.metadata.model import Scalar

LENGTH_MAX: Final = 10_000
"""A filter, in characters."""

DEPTH_MAX: Final = 100
"""Parentheses and NOTs within each other."""

ATTRIBUTES: Final[Mapping[str, str]] = {
    "id": "int",
    "type": "str",
    "name": "str",
    "external_id": "str",
    "uri": "str",
    "digest": "str",
    "state": "str",
    "version": "str",
    "error": "str",
    "created": "int",
    "revision": "int",
    "create_time_ms": "int",
    "update_time_ms": "int",
    "context": "str",
    "context_id": "int",
}
"""Fields that are no properties, with their types."""

MULTIPLE: Final = frozenset({"context", "context_id"})
"""Fields with any number of values."""


class Field(msgspec.Struct, frozen=True):
    """What a predicate is about: ``of`` is empty for an attribute, else ``properties`` or ``custom``."""

    of: str
    name: str
    position: int = 0

    @property
    def multiple(self) -> bool:
        """Has any number of values."""
        return not self.of and self.name in MULTIPLE

    def __str__(self) -> str:
        return f"{self.of}.{self.name}" if self.of else self.name


class Comparison(msgspec.Struct, frozen=True):
    """``field relation value``; relations are the operators, ``IN`` (a tuple) and ``LIKE``."""

    field: Field
    relation: str
    value: Any
    position: int


class IsNull(msgspec.Struct, frozen=True):
    """``field IS NULL``."""

    field: Field
    position: int


class Not(msgspec.Struct, frozen=True):
    """The opposite; of what is unknown, unknown."""

    of: Node


class And(msgspec.Struct, frozen=True):
    """Both."""

    left: Node
    right: Node


class Or(msgspec.Struct, frozen=True):
    """Either."""

    left: Node
    right: Node


Node: TypeAlias = Comparison | IsNull | Not | And | Or
Values: TypeAlias = Callable[[Field], Any]
"""The value of a field of one object; a list for a field with several values; None for NULL."""

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")+")
      | (?P<relation><=|>=|!=|<>|==|=|<|>)
      | (?P<mark>[(),.])
      | (?P<word>[^\W\d]\w*)
    """,
    re.VERBOSE,
)

_WORDS: Final = frozenset({"AND", "OR", "NOT", "IN", "LIKE", "IS", "NULL", "TRUE", "FALSE"})


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    position: int


def parse(source: str) -> Node | None:
    """The filter that a text stands for; None for an empty one. Raises `FilterError`."""
    if not isinstance(source, str):
        raise FilterError(f"a filter is text, not {type(source).__name__}", str(source), 0)
    if len(source) > LENGTH_MAX:
        raise FilterError(f"a filter has at most {LENGTH_MAX} characters, not {len(source)}", source[:40] + "…", 0)
    if not source.strip():
        return None
    return _Parser(source).whole()


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = list(_tokens(source))
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        found = self._either()
        if self._here.kind != "end":
            self._fail("AND, OR or the end of the filter was expected")
        return found

    @property
    def _here(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *texts: str, kind: str = "word") -> bool:
        here = self._here
        if here.kind == kind and (here.text.upper() if kind == "word" else here.text) in texts:
            self._at += 1
            return True
        return False

    def _fail(self, expected: str) -> NoReturn:
        here = self._here
        found = "the filter ends" if here.kind == "end" else f"there is {here.text!r}"
        raise FilterError(f"{expected}, but {found}", self._source, here.position)

    def _either(self) -> Node:
        found = self._both()
        while self._take("OR"):
            found = Or(found, self._both())
        return found

    def _both(self) -> Node:
        found = self._opposite()
        while self._take("AND"):
            found = And(found, self._opposite())
        return found

    def _opposite(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise FilterError(f"more than {DEPTH_MAX} within each other", self._source, self._here.position)
        try:
            if self._take("NOT"):
                return Not(self._opposite())
            if self._take("(", kind="mark"):
                found = self._either()
                if not self._take(")", kind="mark"):
                    self._fail("a closing parenthesis was expected")
                return found
            return self._predicate()
        finally:
            self._depth -= 1

    def _predicate(self) -> Node:
        field = self._field()
        here = self._here
        if here.kind == "relation":
            self._at += 1
            relation = {"<>": "!=", "==": "="}.get(here.text, here.text)
            return Comparison(field, relation, self._constant(), here.position)
        if self._take("IS"):
            opposite = self._take("NOT")
            if not self._take("NULL"):
                self._fail("NULL was expected")
            null = IsNull(field, here.position)
            return Not(null) if opposite else null
        opposite = self._take("NOT")
        if self._take("IN"):
            found: Node = Comparison(field, "IN", self._constants(), here.position)
        elif self._take("LIKE"):
            at = self._here
            pattern = self._constant()
            if not isinstance(pattern, str):
                raise FilterError("LIKE takes text in single quotes", self._source, at.position)
            found = Comparison(field, "LIKE", pattern, here.position)
        else:
            self._fail("a comparison, IN, LIKE or IS was expected")
        return Not(found) if opposite else found

    def _name(self) -> str:
        here = self._here
        if here.kind != "quoted" and (here.kind != "word" or here.text.upper() in _WORDS):
            self._fail("the name of a field was expected")
        self._at += 1
        return here.text[1:-1].replace('""', '"') if here.kind == "quoted" else here.text

    def _field(self) -> Field:
        position = self._here.position
        name = self._name()
        if self._take(".", kind="mark"):
            if name not in {"properties", "custom"}:
                raise FilterError(f"there are properties. and custom., not {name}.", self._source, position)
            return Field(name, self._name(), position)
        if name not in ATTRIBUTES:
            known = ", ".join(ATTRIBUTES)
            hint = f"no field is called {name!r}; there are properties.NAME, custom.NAME, {known}"
            raise FilterError(hint, self._source, position)
        return Field("", name, position)

    def _constants(self) -> tuple[Scalar, ...]:
        if not self._take("(", kind="mark"):
            self._fail("IN takes constants in parentheses; an opening one was expected")
        found = [self._constant()]
        while self._take(",", kind="mark"):
            found.append(self._constant())
        if not self._take(")", kind="mark"):
            self._fail("a comma or a closing parenthesis was expected")
        return tuple(found)

    def _constant(self) -> Scalar:
        here = self._here
        if here.kind == "number":
            self._at += 1
            return float(here.text) if set(here.text) & set(".eE") else int(here.text)
        if here.kind == "text":
            self._at += 1
            return here.text[1:-1].replace("''", "'")
        if self._take("TRUE"):
            return True
        if here.kind == "word" and here.text.upper() == "NULL":
            self._fail("nothing is equal to NULL: say IS NULL or IS NOT NULL")
        if not self._take("FALSE"):
            self._fail("a number, TRUE, FALSE or text in single quotes was expected")
        return False


def _tokens(source: str) -> Iterator[_Token]:
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            raise FilterError(f"{source[position]!r} makes no sense here", source, position)
        kind = match.lastgroup
        assert kind is not None
        if kind != "space":
            yield _Token(kind, match.group(), position)
        position = match.end()
    yield _Token("end", "", position)


# ------------------------------------------------------------------------------------------------------- what it means


def check(node: Node | None, source: str, types: Callable[[Field], str | None]) -> None:
    """See that constants are of their fields' types. ``types`` tells the type, None where any will do, and may raise.

    Raises:
        FilterError: a number is compared with text, for example.
    """
    for each in predicates(node):
        kind = types(each.field)
        if not isinstance(each, Comparison) or kind is None:
            continue
        values = each.value if each.relation == "IN" else (each.value,)
        for value in values:
            if kind == "json" or not _fits(kind, value) or (each.relation == "LIKE" and kind != "str"):
                raise FilterError(f"{each.field} is {kind} and cannot be compared so", source, each.position)


def _fits(kind: str, value: Scalar) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str)
    return isinstance(value, int | float) and not isinstance(value, bool)


def predicates(node: Node | None) -> Iterator[Comparison | IsNull]:
    """All predicates of a filter."""
    match node:
        case None:
            return
        case Not(inner):
            yield from predicates(inner)
        case And(left, right) | Or(left, right):
            yield from predicates(left)
            yield from predicates(right)
        case _:
            yield node


def conjuncts(node: Node | None) -> Iterator[Comparison]:
    """The comparisons that must hold for the filter to hold: those by which an index can narrow the search."""
    match node:
        case And(left, right):
            yield from conjuncts(left)
            yield from conjuncts(right)
        case Comparison():
            yield node
        case _:
            return


def holds(node: Node | None, values: Values) -> bool | None:
    """Is the filter true of an object? None: unknown."""
    match node:
        case None:
            return True
        case And(left, right):
            first = holds(left, values)
            if first is False:
                return False
            second = holds(right, values)
            return False if second is False else None if None in (first, second) else True
        case Or(left, right):
            first = holds(left, values)
            if first is True:
                return True
            second = holds(right, values)
            return True if second is True else None if None in (first, second) else False
        case Not(inner):
            inside = holds(inner, values)
            return None if inside is None else not inside
        case IsNull(field):
            value = values(field)
            return not value if field.multiple else value is None
        case Comparison(field, relation, constant):
            value = values(field)
            if not field.multiple:
                return compare(value, relation, constant)
            if relation == "!=":
                return not any(compare(each, "=", constant) for each in value)
            return any(compare(each, relation, constant) for each in value)


def compare(value: Any, relation: str, constant: Any) -> bool | None:
    """A comparison of one value; None when the value is NULL or of another kind than the constant."""
    if value is None:
        return None
    if relation == "IN":
        answers = [compare(value, "=", each) for each in constant]
        return True if True in answers else None if None in answers else False
    if relation == "LIKE":
        return bool(pattern(constant).fullmatch(value)) if isinstance(value, str) else None
    if isinstance(value, bool) != isinstance(constant, bool) or isinstance(value, str) != isinstance(constant, str):
        return None
    if not isinstance(value, bool | int | float | str):
        return None
    return _OPERATORS[relation](value, constant)


def pattern(like: str) -> re.Pattern[str]:
    """A LIKE pattern as a regular expression."""
    parts: list[str] = []
    literal = False
    for character in like:
        if literal:
            parts.append(re.escape(character))
            literal = False
        elif character == "\\":
            literal = True
        else:
            parts.append({"%": ".*", "_": "."}.get(character) or re.escape(character))
    if literal:
        parts.append(re.escape("\\"))
    return re.compile("".join(parts), re.DOTALL)  # the module `re` keeps the last few hundred


def literal_prefix(like: str) -> str:
    """The text that everything LIKE the pattern begins with."""
    return re.split(r"[%_\\]", like, maxsplit=1)[0]
