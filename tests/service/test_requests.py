"""Words -> operation: the route and the words have to agree, and errors keep their place."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from farfield_kernels.errors import ArgumentError, FormulaError
from farfield_kernels.operation import Reduce, Spec, Vjp
from farfield_service.errors import BadRequest
from farfield_service.requests import Words, read_words

WORDS: dict[str, Any] = {"formula": "x+p", "variables": ["x = Vj(2)", "p = Pm(1)"]}


def test_words_are_the_compilers_key() -> None:
    """Defaults are Sum over j without derivatives."""
    spec = Words(**WORDS).spec()
    assert (spec.formula, spec.variables) == ("x+p", ("x = Vj(2)", "p = Pm(1)"))
    assert (spec.reduction, spec.axis, spec.wrt) == ("Sum", 1, ())


def test_choices_reach_the_compiler() -> None:
    """Each word of the key is one of the request, with the same default; a wrong one names its field."""
    chosen = {"nan_policy": "ignore", "sum_scheme": "kahan_scheme", "dtype_acc": "float64", "separation": "off"}
    spec = Words(**WORDS, **chosen).spec()
    assert {name: getattr(spec, name) for name in chosen} == chosen
    assert Words(**WORDS).spec() == Spec("x+p", ("x = Vj(2)", "p = Pm(1)"))
    for name in chosen:
        with pytest.raises(ArgumentError, match="it is one of") as caught:
            Words(**WORDS, **{name: "maybe"}).spec()
        assert caught.value.field == name


def test_each_route_takes_its_own_words() -> None:
    """/v1/reduce takes no wrt, /v1/vjp needs one."""
    plain, derived = Words(**WORDS), Words(**WORDS, wrt=[[0]])
    assert isinstance(read_words(plain, is_vjp=False), Reduce)
    assert isinstance(read_words(derived, is_vjp=True), Vjp)
    for words, is_vjp in ((plain, True), (derived, False)):
        with pytest.raises(BadRequest, match="/v1/vjp") as caught:
            read_words(words, is_vjp=is_vjp)
        assert caught.value.field == "wrt"


def test_errors_of_the_language_keep_their_place() -> None:
    """Text, position and field survive the way through the service."""
    with pytest.raises(FormulaError) as caught:
        read_words(Words(**WORDS | {"formula": "x+q"}), is_vjp=False)
    assert (caught.value.field, caught.value.text, caught.value.position) == ("formula", "x+q", 2)
    with pytest.raises(ArgumentError) as refused:
        read_words(Words(**WORDS, wrt=[[2]]), is_vjp=True)
    assert refused.value.field == "wrt"


def test_unknown_words_are_refused() -> None:
    """A word that this version does not know is not passed over."""
    with pytest.raises(ValidationError):
        Words(**WORDS, backend="GPU")


@pytest.mark.parametrize("name", Words.model_fields)
def test_every_word_says_what_it_is(name: str) -> None:
    """The descriptions are what OpenAPI shows."""
    assert len(Words.model_fields[name].description or "") > 10
