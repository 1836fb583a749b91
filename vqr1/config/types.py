"""Types that several schemas share."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, le=1)]
ExpandedPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A file or folder, or a name on the hub; `~` is the home folder, which no shell expands after a
key with a dot."""
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Column = NonNegativeInt | str
"""A column of a user's own table: its name in the header, or its number, the first being 0."""

ARGUMENTS = "arguments"
"""Field of the arguments that the schema does not type (`vqr1.config.targets.arguments_apart`)."""

STRICT_KEYS = ConfigDict(extra="forbid")
"""Settings of every schema class: an unknown key is an error."""


def key_of_field(schema: Any, name: str) -> str:
    """Key of a field of a schema class as YAML has it: its alias where it has one.

    A field whose key is no name that Python allows has one: `target` of a class's `_target_`.

    Args:
        schema: the class, or an instance of it.
        name: the field's name in Python.
    """
    return schema.__pydantic_fields__[name].alias or name
