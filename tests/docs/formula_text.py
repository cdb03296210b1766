"""Expr -> text of a formula that the parser reads: infix signs, and no repetition where broadcasting repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from farfield_kernels.expr import Const, Expr, broadcast

COMPARISON, SCALPROD, SUM, PRODUCT, UNARY, POWER, ATOM = range(1, 8)
SIGNS = {
    "Add": ("+", SUM),
    "Subtract": ("-", SUM),
    "Mult": ("*", PRODUCT),
    "Divide": ("/", PRODUCT),
    "Equal": ("==", COMPARISON),
    "NotEqual": ("!=", COMPARISON),
    "LessThan": ("<", COMPARISON),
    "LessOrEqual": ("<=", COMPARISON),
}
Text = tuple[str, int]  # and how tightly it binds
Part = Callable[[Expr, int], str]  # an operand, in parentheses if it binds less tightly


def written(root: Expr, names: Mapping[int, str], integers: Mapping[int, str]) -> str:
    """The formula as text.

    Args:
        names: by id of a node, the name that stands for it.
        integers: what to write for an integer, such as D for the dim of all vectors.
    """
    return "0" if _is_zero(root) else _text(root, names, integers)[0]


def _text(node: Expr, names: Mapping[int, str], integers: Mapping[int, str]) -> Text:
    if id(node) in names:
        return names[id(node)], ATOM
    if isinstance(node, Const):
        return _number(node.value, integers)
    if node.op is None:
        raise ValueError(f"{node!r} has no name")
    name = node.op.name

    def part(operand: Expr, least: int) -> str:
        text, binding = _text(_unrepeated(operand, node), names, integers)
        return text if binding >= least else f"({text})"

    if name in SIGNS:
        sign, binding = SIGNS[name]
        left, right = node.operands
        # A comparison is not chained; what follows any other sign must bind tighter.
        return f"{part(left, binding + (binding == COMPARISON))} {sign} {part(right, binding + 1)}", binding
    if name == "Minus":
        return f"-{part(node.operands[0], UNARY)}", UNARY
    if name in ("Square", "Pow"):
        exponent = "2" if name == "Square" else _integer(node.params[0], integers)
        return f"{part(node.operands[0], ATOM)}**{exponent if exponent.isalnum() else f'({exponent})'}", POWER
    if name == "Powf":
        base, power = node.operands
        return f"{part(base, ATOM)}**{part(power, POWER)}", POWER
    if name == "Contract":
        return _contraction(node, part, integers)
    if name == "Interleave":
        return _interleaved(node, part)
    params = [_integer(value, integers) for value in node.params]
    if name == "Extract" and node.dim == 1:
        name, params = "Elem", params[:1]
    if name == "ExtractT" and node.operands[0].dim == 1:
        name, params = "ElemT", params[::-1]
    return _call(name, [part(operand, COMPARISON) for operand in node.operands], params), ATOM


def _call(name: str, operands: list[str], params: list[str]) -> str:
    return f"{name}({', '.join([*operands, *params])})"


def _unrepeated(operand: Expr, user: Expr) -> Expr:
    """The scalar that an operand repeats, where another operand is as wide as the result."""
    if operand.op is None or operand.op.name != "SumT" or user.op is None or user.op.dim is not broadcast:
        return operand
    others = [other for other in user.operands if other is not operand]
    return operand.operands[0] if any(_width(other) == user.dim for other in others) else operand


def _width(node: Expr) -> int:
    return 1 if node.op is not None and node.op.name == "SumT" else node.dim


def _number(value: float, integers: Mapping[int, str]) -> Text:
    text = _integer(int(value), integers) if value == int(value) else f"{value:.6g}"
    if text.startswith("-"):
        return text, UNARY
    return text, SUM if " " in text else ATOM


def _integer(value: object, integers: Mapping[int, str]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_integer(entry, integers) for entry in value)}]"
    assert isinstance(value, int)
    return integers.get(value, str(value))


def _interleaved(node: Expr, part: Part) -> Text:
    real, imaginary = node.operands
    texts = []
    for name, operand in (("Real2Complex", real), ("Imag2Complex", imaginary)):
        if not _is_zero(operand):
            texts.append(f"{name}({part(operand, COMPARISON)})")
    return " + ".join(texts), SUM if len(texts) > 1 else ATOM


def _is_zero(node: Expr) -> bool:
    while node.op is not None and node.op.name == "SumT":
        node = node.operands[0]
    return isinstance(node, Const) and node.value == 0


def _contraction(node: Expr, part: Part, integers: Mapping[int, str]) -> Text:
    """As the simplest operator that says the same."""
    a, b = node.operands
    la, lb, labels, sizes = node.params
    if not la or not lb:
        return f"{part(a, PRODUCT)} * {part(b, UNARY)}", PRODUCT
    if la == lb and not labels:
        return f"{part(a, SCALPROD)} | {part(b, SUM)}", SCALPROD
    a_text, b_text = part(a, COMPARISON), part(b, COMPARISON)
    for matrix, vector, rest in ((la, lb, (a_text, b_text)), (lb, la, (b_text, a_text))):
        if len(matrix) == 2 and vector == matrix[1:] and labels == matrix[:1]:
            return _call("MatVecMult", [*rest], []), ATOM
        if len(matrix) == 2 and vector == matrix[:1] and labels == matrix[1:]:
            return _call("VecMatMult", [*rest[::-1]], []), ATOM
    if labels == la + lb:
        return f"TensorProd({a_text}, {b_text})", ATOM
    if labels == lb + la:
        return f"TensorProd({b_text}, {a_text})", ATOM
    shared = [label for label in la if label in lb]
    kept = [label for label in (*la, *lb) if label not in shared]
    lists = [
        tuple(sizes[label] for label in la),
        tuple(sizes[label] for label in lb),
        tuple(la.index(label) for label in shared),
        tuple(lb.index(label) for label in shared),
    ]
    if tuple(kept) != labels:
        lists.append(tuple(labels.index(label) for label in kept))
    return _call("TensorDot", [a_text, b_text], [_integer(entries, integers) for entries in lists]), ATOM
