"""The words of a request -> an operation, checked before any array is looked at."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field

from farfield_kernels.operation import MAX_ORDER, Operation, Spec, read
from farfield_kernels.parse import MAX_TEXT, MAX_VARIABLES

from .errors import BadRequest

_Text = Annotated[str, Meta(max_length=MAX_TEXT)]
_Texts = Annotated[list[_Text], Meta(max_length=MAX_VARIABLES)]
_Word = Annotated[str, Meta(max_length=32)]
_Numbers = Annotated[list[int], Meta(max_length=4 * MAX_VARIABLES)]


class Words(BaseModel):
    """What a call computes, without its arrays. `Meta` bounds what a decoder may allocate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    formula: _Text = Field(description="such as Square(p-a)*Exp(x+y)")
    variables: _Texts = Field(description="one declaration per argument, such as 'x = Vi(3)'")
    reduction: _Text | None = Field(
        "Sum", description="see /v1/operators; null if the formula names it, as in Sum_Reduction(x+y, 0)"
    )
    axis: int | None = Field(1, description="the axis summed away: 1 reduces over j, 0 over i, null over both")
    wrt: Annotated[list[_Numbers], Meta(max_length=MAX_ORDER)] = Field(
        default_factory=list,
        description="per order of derivative, the arguments whose gradients are asked for",
    )
    formula2: _Text | None = Field(None, description="the weights of a weighted reduction")
    opt_arg: int | None = Field(None, description="how many terms KMin and KMax select")
    nan_policy: _Word = Field("propagate", description="propagate: NaN wins every selection; ignore: none")
    sum_scheme: _Word = Field("auto", description="kahan_scheme carries rounding errors along")
    dtype_acc: _Word = Field("auto", description="float64 sums float32 as exactly as if in double")
    separation: _Word = Field("auto", description="auto, on or off: sums of finite rank in M + N steps")
    saving: bool = Field(False, description="return all results that the gradient needs")
    ranges: bool = Field(False, description="whether the last six arguments are block-sparse ranges")

    def spec(self) -> Spec:
        """The same as the compiler's key."""
        words = {field.name: getattr(self, field.name) for field in fields(Spec)}
        return Spec(**words | {"variables": tuple(self.variables), "wrt": tuple(tuple(w) for w in self.wrt)})


def read_words(words: Words, *, is_vjp: bool) -> Operation:
    """The operation that the words describe.

    Raises:
        FormulaError, ArgumentError: see `farfield_kernels.operation.read`.
        BadRequest: derivatives asked of /v1/reduce, or none asked of /v1/vjp.
    """
    check_route(words, is_vjp=is_vjp)
    return read(words.spec())


def check_route(words: Words, *, is_vjp: bool) -> None:
    """Pass if they were sent to the right route; `BadRequest` as above."""
    if is_vjp != bool(words.wrt):
        route = "/v1/vjp needs wrt" if is_vjp else "/v1/reduce takes no wrt: use /v1/vjp"
        raise BadRequest(route, field="wrt")
