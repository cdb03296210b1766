"""Operator -> its derivative as formulas of a, b, ..., the result y and its cotangent g."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from docs.formula_text import written
from docs.signatures import Pattern, call, integers_of, value_of
from farfield_kernels.differentiate import vjp
from farfield_kernels.errors import RuleError
from farfield_kernels.expr import Expr, Operator, apply, bounded, constant, transform, variable, with_operands
from farfield_kernels.rewrite import literal, rewrite

LONGEST = 170  # characters of a derivative that is shown
MOST_NODES = 2_000  # of a derivative that is tried

# Numbers that no derivative holds by itself: in its text they become the letters. The text holds for all numbers
# if two settings give it; what ExtractT writes is longer than what it reads, so there are two pairs.
SHOWN: tuple[tuple[dict[str, int], ...], ...] = tuple(
    tuple(
        {
            "D": D,
            "E": D + 2,
            "d": d,
            "n": n,
            "m": m,
            "start": start,
            "k": 3,
            "p": 3,
            "q": 5,
            "low": -37,
            "high": 41,
        }
        for D, d, n, m, start in pair
    )
    for pair in (((101, 46, 17, 13, 23), (137, 58, 19, 11, 29)), ((101, 246, 17, 13, 23), (137, 358, 19, 11, 29)))
)


def general(operator: Operator, pattern: Pattern) -> list[str] | None:
    """The gradient of each operand as text that holds for all dims and integers; None if there is no short one."""
    for pair in SHOWN:
        texts = []
        for setting in pair:
            dims = [value_of(text, setting) for text in pattern.operands]
            found = gradients(operator, dims, integers_of(operator, setting), _letters(operator, setting))
            if found is None:
                break
            texts.append(found)
        if len(texts) == 2:
            return texts[0] if texts[0] == texts[1] else None
    return None


def gradients(
    operator: Operator, dims: Sequence[int], integers: Sequence[object], letters: Mapping[int, str]
) -> list[str] | None:
    """The gradients of one call as text, with letters for some integers; None if they are long."""
    try:
        with bounded(MOST_NODES):
            result, operands = call(operator, dims, integers)
            cotangent = variable(len(dims) + 1, result.dim, "i")
            swept = vjp([(result, cotangent)], operands)
    except RuleError:
        return None
    names = {id(result): "y", id(cotangent): "g"} | {id(x): "abcd"[k] for k, x in enumerate(operands)}
    texts = [written(simplest(gradient), names, letters) for gradient in swept]
    return texts if max(map(len, texts), default=0) <= LONGEST else None


def simplest(formula: Expr) -> Expr:
    """The formula rewritten, without zeros and with products by scalars as such."""
    return rewrite(transform(formula, _simple))


def _simple(node: Expr, operands: tuple[Expr, ...]) -> Expr:
    if node.op is None:
        return node
    zeros = [literal(operand) == 0 for operand in operands]
    if node.op.name == "Add" and any(zeros):
        return _wide(operands[zeros[0]] if not all(zeros) else constant(0.0), node.dim)
    if node.op.name == "Mult" and any(zeros):
        return _wide(constant(0.0), node.dim)
    if node.op.name == "Contract" and () in node.params[:2]:
        scalar = node.params.index(())
        return operands[scalar] * operands[1 - scalar]
    return with_operands(node, operands)


def _wide(node: Expr, dim: int) -> Expr:
    return node if node.dim == dim else apply("SumT", node, dim)


def _letters(operator: Operator, setting: Mapping[str, int]) -> dict[int, str]:
    """What to write for the numbers of a setting."""
    D, E = setting["D"], setting["E"]
    letters = {D: "D", E: "E", D * E: "D*E", D * D: "D*D", 2 * D: "2*D"}
    for name in operator.integers:
        letters[setting[name]] = name
        if name == "n":
            letters |= {setting[name] + 1: "n + 1", setting[name] - 1: "n - 1"}
    return letters
