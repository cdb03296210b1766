"""The words of a request -> an operation, checked before any array is looked at."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field

from farfield_kernels.operation import MAX_ORDER, Operation, Spec, read
from farfield_kernels.parse import MAX_TEXT, MAX_VARIABLES

from .errors import BadRequest

_Text = Annotated[str, Meta(max_length=MAX_TEXT)]
_Texts = Annotated[list[_Text], Meta(max_length=MAX_VARIABLES)]
_Numbers = Annotated[list[int], Meta(max_length=4 * MAX_VARIABLES)]


class Words(BaseModel):
    """What a call computes, without its arrays. `Meta` bounds what a decoder may allocate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    formula: _Text = Field(description="such as Square(p-a)*Exp(x+y)")
    variables: _Texts = Field(description="one declaration per argument, such as 'x = Vi(3)'")
    reduction: _Text = Field("Sum", description="see /v1/operators")
    axis: int = Field(1, description="the axis summed away: 1 reduces over j, 0 over i")
    wrt: Annotated[list[_Numbers], Meta(max_length=MAX_ORDER)] = Field(
        default_factory=list,
        description="per order of derivative, the arguments whose gradients are asked for",
    )

    def spec(self) -> Spec:
        """The same as the compiler's key."""
        return Spec(
            self.formula, tuple(self.variables), self.reduction, self.axis, tuple(tuple(w) for w in self.wrt)
        )


def read_words(words: Words, *, is_vjp: bool) -> Operation:
    """The operation that the words describe.

    Raises:
        FormulaError, ArgumentError: see `farfield_kernels.operation.read`.
        BadRequest: derivatives asked of /v1/reduce, or none asked of /v1/vjp.
    """
    if is_vjp != bool(words.wrt):
        route = "/v1/vjp needs wrt" if is_vjp else "/v1/reduce takes no wrt: use /v1/vjp"
        raise BadRequest(route, field="wrt")
    return read(words.spec())
