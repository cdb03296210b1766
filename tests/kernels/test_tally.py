"""Counting operations in C text: what a compiler fuses, shares and drops."""

from __future__ import annotations

import pytest

from farfield_kernels.tally import OPERATIONS, Tally


def counted(code: str, dtype: str = "float32") -> dict[str, int]:
    """The operations of one value."""
    tally = Tally(dtype)
    return dict(tally.count([tally.value(code, [tally.leaf() for _ in "abc"])]))


CODES = {
    "$a * $b + $c": {"fma": 1},
    "$a * $b": {"fma": 1},
    "$a - $b": {"add": 1},
    "$a * $b + $b * $c": {"fma": 2},
    "($a + $b) * $c": {"add": 1, "fma": 1},
    "-$a * $b": {"fma": 1},
    "$a - -$b": {"add": 1},
    "K(2.0) * $a": {"add": 1},
    "$a * K(1.0)": {},
    "K(3.0) * $a": {"fma": 1},
    "K(1) / $a": {"divide": 1},
    "K(1) + K(2) * K(3)": {},
    "$a > $b ? $a : $b": {"largest": 1},
    "$a < K(0) ? K(0) : $a": {"largest": 1},
    "$a == $b ? $a : $b": {"compare": 1, "choose": 1},
    "$a > $b ? $a : $c": {"compare": 1, "choose": 1},
    "exp2($a) + exp2($a)": {"exp2": 1, "add": 1},
    "pow($a, K(2.5))": {"pow": 1},
    "fabs($a)": {"choose": 1},
    "log1p(exp(-fabs($a - $b)))": {"log1p": 1, "exp": 1, "choose": 1, "add": 1},
}


@pytest.mark.parametrize("code", CODES)
def test_a_text_is_its_operations(code: str) -> None:
    """By hand, in both types."""
    assert counted(code) == counted(code, "float64") == CODES[code]


def test_a_product_that_others_read_too_stays() -> None:
    """Read by two sums it is fused with both; read by a function as well, it is computed once more."""
    tally = Tally("float32")
    a, b, c = (tally.leaf() for _ in range(3))
    product = tally.value("$a * $b", [a, b])
    sums = [tally.value("$a + $b", [product, c]), tally.value("$a - $b", [c, product])]
    assert tally.count(sums) == {"fma": 2}
    assert tally.count([*sums, tally.value("exp($a)", [product])]) == {"fma": 1, "add": 2, "exp": 1}
    assert tally.count([*sums, product]) == {"fma": 1, "add": 2}


def test_a_sum_takes_in_one_product() -> None:
    """The other of a*b + c*c stays a product of its own."""
    tally = Tally("float32")
    a, b = tally.leaf(), tally.leaf()
    both = tally.value("$a * $a + $b * $b", [a, b])
    assert tally.count([both]) == {"fma": 2}


def test_statements_name_what_follows_reads() -> None:
    """A step in several statements; what is in braces after `if` is not counted, its condition is."""
    tally = Tally("float32")
    names = {"$s": tally.leaf(), "$t": tally.leaf()}
    after = tally.run("const V d = $t - $s; $s = $s + d * d;", names)
    assert tally.count([after["$s"]]) == {"add": 1, "fma": 1}
    tally = Tally("float32")
    entries = {"$v": tally.leaf(), "$t": tally.leaf()}
    tally.run("const V t = $t; if (any(t < $v[$K - 1])) { V x = exp(t); for (;;) { x = x / t; } }", entries)
    assert tally.count([]) == {"any": 1, "compare": 1}


def test_a_text_that_is_not_understood_is_an_error() -> None:
    """A missing bracket, beside the text that has it."""
    assert counted("exp($a)") == {"exp": 1}
    with pytest.raises(ValueError, match="where one of"):
        counted("exp($a; $b)")


def test_every_class_says_what_it_is() -> None:
    """The words stand in the table of the machine."""
    assert all(OPERATIONS.values())
