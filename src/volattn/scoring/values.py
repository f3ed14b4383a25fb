"""Types of the values of a score file: read strictly, finite, and of a sane size."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from volattn.config import Config

Name = Annotated[str, Field(min_length=1, max_length=400)]
Number = Annotated[float, Field(strict=True, ge=-1e12, le=1e12)]
"""Far beyond any measure, and no sum of them overflows."""
Length = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=0, le=10**12)]
Flag = Annotated[bool, Field(strict=True)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)] | None


def having(*names: str, others: bool = False) -> AfterValidator:
    """Refuses a mapping without these keys; keeps them alone, in this order, or the others too."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"has no {missing[0]}")
        return values if others else {name: values[name] for name in names}

    return AfterValidator(check)


class Part(Config):
    """A part of a file; what else it holds is left alone. Dataclasses with these values are parts too."""

    model_config = ConfigDict(extra="ignore")
