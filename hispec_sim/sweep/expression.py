"""Constraints: a small checked language over the names of a sweep's axes. Nothing of it is run as Python.

draft_exit < intermediate_exit
draft_length <= verify_period or bonus == 'always'
target in ('llama-3-8b', 'llama-2-7b')
0.1 * n <= draft_exit <= min(0.5 * n, 20)
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hispec_sim.errors import InputError
from hispec_sim.scenario.yaml_source import did_you_mean

_MAX_CHARACTERS = 500
_ALLOWED = "names of axes and parameters, numbers, quoted words, + - * / // %, comparisons, in, and, or, not, min, max"
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
_CALLS: dict[str, Callable[..., Any]] = {"min": min, "max": max}


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition over named values. Raises InputError when `text` is not in the language."""

    text: str
    names: frozenset[str] = field(init=False)
    _tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.text) > _MAX_CHARACTERS:
            raise InputError(f"a constraint has at most {_MAX_CHARACTERS} characters; split it into several")
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise InputError(f"{self.text!r} is not a condition such as draft_exit < intermediate_exit") from None
        names: set[str] = set()
        self._check(tree, names)
        object.__setattr__(self, "names", frozenset(names))
        object.__setattr__(self, "_tree", tree)

    def check_names(self, known: Mapping[str, Any]) -> None:
        """Raises InputError for a name that stands for nothing."""
        for name in sorted(self.names - set(known)):
            raise InputError(f"{name!r} is neither an axis nor a parameter{did_you_mean(name, known)}")

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the condition is met. Raises InputError when the values cannot be compared or computed with."""
        try:
            return bool(_evaluate(self._tree, values))
        except (TypeError, ZeroDivisionError, OverflowError) as error:
            given = ", ".join(f"{name}={values[name]!r}" for name in sorted(self.names))
            raise InputError(f"{self.text!r} cannot be evaluated at {given}: {error}") from None

    def _check(self, node: ast.expr, names: set[str]) -> None:
        name = dotted_name(node)
        if name is not None:
            names.add(name)
            return
        inner: list[ast.expr]
        match node:
            case ast.Constant(value=bool() | int() | float() | str()):
                inner = []
            case ast.BoolOp(values=values):
                inner = values
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                inner = [operand]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                inner = [left, right]
            case ast.Compare(left=left, ops=ops, comparators=comparators) if all(type(op) in _COMPARE for op in ops):
                inner = [left, *comparators]
            case ast.Tuple(elts=items) | ast.List(elts=items):
                inner = items
            case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]) if function in _CALLS and arguments:
                inner = arguments
            case _:
                raise InputError(f"{ast.unparse(node)!r} in {self.text!r} is not allowed; use {_ALLOWED}")
        for child in inner:
            self._check(child, names)


def dotted_name(node: ast.expr) -> str | None:
    """`a` or `a.b.c` for a name of that form."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted_name(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_evaluate(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_evaluate(part, values) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, values)
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, values)
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](*_numbers(_evaluate(left, values), _evaluate(right, values)))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [_evaluate(side, values) for side in (left, *comparators)]
            return all(_COMPARE[type(op)](*pair) for op, pair in zip(ops, pairwise(sides), strict=True))
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return [_evaluate(item, values) for item in items]
        case ast.Call(func=ast.Name(id=function), args=arguments):
            return _CALLS[function](*(_evaluate(argument, values) for argument in arguments))
    return values[dotted_name(node) or ""]


def _numbers(*values: Any) -> tuple[Any, ...]:
    """Arithmetic is for numbers only: repeating a text or a list could grow without bound."""
    if not all(isinstance(value, int | float) for value in values):
        raise TypeError("arithmetic needs numbers")
    return values
