"""Types that several schemas share."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Column = NonNegativeInt | str
"""A column of a user's own table: its name in the header, or its number, the first being 0."""

ARGUMENTS = "arguments"
"""Field of the arguments that the schema does not type (`vqr1.config.targets.arguments_apart`)."""
ALIASES = {"target": "_target_"}
"""Keys of fields whose names Python does not allow."""

STRICT_KEYS = ConfigDict(extra="forbid")
"""Settings of every schema class: an unknown key is an error."""
