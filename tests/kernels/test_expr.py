"""The graph: equal nodes are one object, dead nodes leave no trace, shared graphs cost what they hold."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest

from farfield_kernels import expr
from farfield_kernels.errors import RuleError
from farfield_kernels.expr import Expr, apply, constant, format_expr, topological, transform, variable


def test_equal_nodes_are_one_object() -> None:
    """The same operator on the same operands is the same node; other operands, integers or dims are others."""
    x, y = variable(0, 3, "i"), variable(1, 3, "j")
    assert x is variable(0, 3, "i")
    assert apply("Exp", x + y) is apply("Exp", x + y)
    assert x + y is not y + x
    assert apply("Extract", x, 0, 2) is not apply("Extract", x, 1, 2)
    different = {variable(0, 3, "i"), variable(0, 3, "j"), variable(1, 3, "i"), variable(0, 2, "i")}
    assert len(different) == 4


def test_constants_are_told_apart_by_their_bits() -> None:
    """0.0 and -0.0 differ, as do neighbouring floats; 2 and 2.0 and True and 1.0 are the same number."""
    assert constant(0.0) is not constant(-0.0)
    assert np.signbit(constant(-0.0).value)
    assert constant(1.0) is not constant(np.nextafter(1.0, 2.0))
    assert constant(2) is constant(2.0)
    assert constant(True) is constant(1.0)
    for number in (np.nan, np.inf, -np.inf):
        with pytest.raises(RuleError, match="is not finite"):
            constant(number)


def test_dead_formulas_leave_the_table() -> None:
    """A thousand formulas that nobody holds any more are gone from the table of nodes."""
    gc.collect()
    before = len(expr._nodes)
    formulas = [apply("Exp", variable(0, 3, "i") * (k + 0.123)) for k in range(1000)]
    assert len(expr._nodes) >= before + 3000
    del formulas
    gc.collect()
    assert len(expr._nodes) == before


def test_threads_get_the_same_nodes() -> None:
    """Eight threads that build one formula at a time, again and again, always get one object."""
    found: list[list[Expr]] = [[] for _ in range(8)]
    barrier = threading.Barrier(8)

    def build(mine: list[Expr]) -> None:
        for k in range(200):
            barrier.wait()
            mine.append(apply("Sin", variable(0, 2, "i") * (k + 0.5) + variable(1, 2, "j")))

    threads = [threading.Thread(target=build, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len({id(mine[k]) for mine in found}) == 1 for k in range(200))


def _doubled(times: int) -> Expr:
    node: Expr = variable(0, 1, "i")
    for _ in range(times):
        node = node * node
    return node


def test_shared_graphs_are_walked_in_linear_time() -> None:
    """A graph of 1,500 nodes that would be 2**1500 written out is built, walked, rebuilt and shown at once."""
    started = time.perf_counter()
    root = _doubled(1_499)
    assert root.depth == 1_500
    assert len(list(topological([root]))) == 1_500
    assert transform(root, lambda node, operands: expr.with_operands(node, operands) if node.op else node) is root
    assert len(format_expr(root)) < 2_000
    assert time.perf_counter() - started < 2


def test_topological_order_has_operands_first_and_nodes_once() -> None:
    """Over several roots, each node comes once and after its operands."""
    x, y = variable(0, 3, "i"), variable(1, 3, "j")
    roots = [apply("Exp", x + y), (x + y) * x]
    order = list(topological(roots))
    places = {id(node): place for place, node in enumerate(order)}
    assert len(places) == len(order) == 5
    assert all(places[id(operand)] < places[id(node)] for node in order for operand in node.operands)


def test_depth_and_dim_are_bounded() -> None:
    """2,000 nested operators and 65,536 components are allowed, one more is not."""
    deep = _doubled(1_999)
    with pytest.raises(RuleError, match="more than 2000 operators are nested"):
        deep * deep
    assert variable(0, 65_536, "i").dim == 65_536
    with pytest.raises(RuleError, match=r"dim 65537 is outside 1\.\.65536"):
        variable(0, 65_537, "i")


def test_axes_are_those_of_the_variables_below() -> None:
    """A node knows which axes it depends on; constants depend on none."""
    x, y, p = variable(0, 1, "i"), variable(1, 1, "j"), variable(2, 1, "p")
    assert (x * y).axes == {"i", "j"}
    assert (x * p + 1).axes == {"i", "p"}
    assert (constant(1) + 2).axes == frozenset()
    assert expr.index("j", "low").axes == {"j"}


def test_formulas_are_shown_with_names_and_cut() -> None:
    """`repr` of a node is the formula; one that is large ends in dots."""
    x, y = variable(0, 3, "i"), variable(1, 3, "j")
    assert repr(apply("Exp", x + y)) == "Exp(Add(i0, j1))"
    assert format_expr(apply("Extract", x, 1, 2) * 0.5, {0: "x"}) == "Mult(Extract(x, 1, 2), 0.5)"
    assert "..." in repr(_doubled(50))
