r"""Whether two expressions without parts are equal, by sympy. For a worker process only.

Nothing is rounded: what are numbers on both sides is compared as such, and where no exact value is
known, to `DIGITS` digits of their difference. Letters are compared at exact points, `sqrt(x^2)` and
`x` also at negative ones. Numbers refute at once, and so few pairs come to what is slow.
"""

import functools
import random
from collections.abc import Iterator
from typing import Any

import sympy
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

DIGITS = 300
"""Two numbers that agree so far relative to their size are equal."""
NUM_POINTS = 6
"""At which expressions with letters are compared."""
MIN_DEFINED_POINTS = 2
_LARGEST_COORDINATE = 97
_FUNCTION_NAMES = frozenset("fghFGHPQT")
"""Letters that stand for functions before a bracket; others are factors, as in `x(x+1)`."""

Expression = Any
"""What sympy has no common type for: its expressions, sets, relations and matrices."""


def same_expression(one: Expression, other: Expression) -> bool:
    """Whether two parsed expressions mean the same."""
    if one == other:
        return not one.has(sympy.nan, sympy.zoo)
    relations = _relations(one), _relations(other)
    if relations[0] and relations[1]:
        return _same_relations(relations[0], relations[1])
    sets = _as_set(one), _as_set(other)
    if any(isinstance(found, sympy.Set) for found in (one, other)):
        return sets[0] is not None and sets[1] is not None and _same_sets(sets[0], sets[1])
    if isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase):
        return one.shape == other.shape and all(map(same_expression, one.flat(), other.flat()))
    if isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr):
        return _is_zero(_evaluated(one) - _evaluated(other))
    return False


def _evaluated(expression: Expression) -> Expression:
    units = [symbol for symbol in expression.free_symbols if str(symbol) == "i"]
    expression = expression.subs(dict.fromkeys(units, sympy.I))
    expression = expression.replace(
        lambda found: isinstance(found, AppliedUndef), _product_or_symbol
    )
    expression = expression.replace(
        _is_derivative_of_unknown, lambda found: sympy.Symbol(str(found))
    )
    return expression.doit()


def _is_derivative_of_unknown(found: Expression) -> bool:
    """Such as dy/dx, where y is a letter: not 0."""
    return isinstance(found, sympy.Derivative) and found.expr.is_Symbol


def _product_or_symbol(call: Expression) -> Expression:
    name = call.func.__name__
    if len(call.args) == 1 and len(name) == 1 and name not in _FUNCTION_NAMES:
        return sympy.Symbol(name) * call.args[0]
    arguments = ",".join(sympy.srepr(sympy.expand(_evaluated(found))) for found in call.args)
    return sympy.Symbol(f"{name}({arguments})")


def _is_zero(difference: Expression) -> bool:
    if difference.has(sympy.nan, sympy.zoo):
        return False
    if difference.is_Rational:
        return difference == 0
    symbols = sorted(difference.free_symbols, key=str)
    if not symbols:
        return _is_zero_number(difference)
    verdicts = [_is_zero_number(value) for value in _values(difference, symbols)]
    return len(verdicts) >= MIN_DEFINED_POINTS and all(verdicts)


def _is_zero_number(value: Expression) -> bool:
    if value.is_Rational:
        return value == 0
    try:
        return sympy.N(value, 3, maxn=DIGITS, strict=True) == 0
    except sympy.core.evalf.PrecisionExhausted:
        return True


def _values(expression: Expression, symbols: list[Any]) -> Iterator[Expression]:
    """At a few points with exact coordinates, where the expression is defined."""
    for point in _points(symbols):
        value = expression.subs(point).doit()
        if value.is_number and not value.has(sympy.nan, sympy.zoo, sympy.oo):
            yield value


def _points(symbols: list[Any]) -> Iterator[dict[Any, Any]]:
    """The same ones each time. In the first all are positive, where roots and logarithms are."""
    generator = random.Random(0)
    for index in range(NUM_POINTS):
        yield {
            symbol: (1 if index < 2 else generator.choice((-1, 1)))
            * sympy.Rational(generator.randint(1, _LARGEST_COORDINATE), generator.randint(2, 9))
            for symbol in symbols
        }


def _relations(expression: Expression) -> list[Any]:
    """One for each sign of `1 < x < 2`; none where it is no relation."""
    if isinstance(expression, Relational):
        return [expression]
    parts = getattr(expression, "_unsorted_args", ())
    is_chain = parts and all(isinstance(part, Relational) for part in parts)
    return list(parts) if is_chain else []


def _same_relations(one: list[Any], other: list[Any]) -> bool:
    if len(one) != len(other):
        return False
    left = list(other)
    for relation in one:
        match = next((found for found in left if _same_relation(relation, found)), None)
        if match is None:
            return _same_solutions(one, other)
        left.remove(match)
    return True


def _same_relation(one: Any, other: Any) -> bool:
    """Whether one is the other times a number, a positive one for an inequality."""
    kinds = _kind(one), _kind(other)
    if kinds[0] != kinds[1]:
        return False
    sides: tuple[Any, Any] = _side(one), _side(other)
    symbols = sorted(sides[0].free_symbols | sides[1].free_symbols, key=str)
    for point in _points(symbols):
        values = [side.subs(point).doit() for side in sides]
        if any(not value.is_finite or value.is_zero for value in values):
            continue
        factor = sympy.nsimplify(values[0] / values[1]) if not symbols else values[0] / values[1]
        if kinds[0] in (">", ">=") and not factor.is_positive:
            return False
        return _is_zero(sides[0] - factor * sides[1])
    return _is_zero(sides[0]) and _is_zero(sides[1])


def _kind(relation: Any) -> str:
    sign = str(relation.rel_op)
    return {"<": ">", "<=": ">="}.get(sign, sign)


def _side(relation: Any) -> Expression:
    """What is compared with zero; for an inequality what is greater."""
    left, right = _evaluated(relation.lhs), _evaluated(relation.rhs)
    return right - left if relation.rel_op in ("<", "<=") else left - right


def _same_solutions(one: list[Any], other: list[Any]) -> bool:
    """Of a single equation for its first letter, as `xy = 1` and `y = 1/x` have."""
    if len(one) != 1 or _kind(one[0]) != "==" or _kind(other[0]) != "==":
        return False
    sides = _side(one[0]), _side(other[0])
    symbols = sorted(sides[0].free_symbols & sides[1].free_symbols, key=str)
    if not symbols or sides[0].free_symbols != sides[1].free_symbols:
        return False
    solutions = [sympy.solve(side, symbols[0]) for side in sides]
    return bool(solutions[0]) and _same_members(solutions[0], solutions[1])


def _same_members(one: list[Expression], other: list[Expression]) -> bool:
    left = list(other)
    for member in one:
        match = next((found for found in left if same_expression(member, found)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _as_set(expression: Expression) -> Expression | None:
    if isinstance(expression, sympy.Set):
        return expression
    relations = _relations(expression)
    if relations and len(expression.free_symbols) == 1:
        evaluated: list[Any] = [
            found.func(_evaluated(found.lhs), _evaluated(found.rhs)) for found in relations
        ]
        return functools.reduce(sympy.Intersection, [found.as_set() for found in evaluated])
    return None


def union_of_solutions(relations: list[Expression]) -> Expression:
    """The set of numbers that solve one of the relations. Raises ValueError for what is none."""
    sets = [_as_set(relation) for relation in relations if _relations(relation)]
    symbols = {symbol for relation in relations for symbol in relation.free_symbols}
    if len(sets) != len(relations) or None in sets or len(symbols) != 1:
        raise ValueError(f"not relations of one variable: {relations}")
    return sympy.Union(*sets)


def _same_sets(one: Expression, other: Expression) -> bool:
    one, other = one.doit(), other.doit()
    if isinstance(one, sympy.Interval) and isinstance(other, sympy.Interval):
        is_as_open = (one.left_open, one.right_open) == (other.left_open, other.right_open)
        return is_as_open and all(
            same_expression(*ends) for ends in ((one.start, other.start), (one.end, other.end))
        )
    return one == other or one.symmetric_difference(other).is_empty is True
