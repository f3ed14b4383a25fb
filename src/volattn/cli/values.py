"""Several values behind one option: `-i a b c` is `-i a -i b -i c`, and `--splits a,b`."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def spread(arguments: Sequence[str], options: Collection[str]) -> list[str]:
    """Repeats an option before each of its values, up to the next option.

    Args:
        arguments: Of the command line.
        options: The options that take several values, e.g. `-i` and `--input`.
    """
    result: list[str] = []
    repeated: str | None = None
    for argument in arguments:
        if argument.startswith("-") and argument != "-":
            name = argument.partition("=")[0]
            repeated = name if name in options else None
            result.append(argument)
        else:
            # The first value follows its option already.
            if repeated is not None and result[-1] != repeated:
                result.append(repeated)
            result.append(argument)
    return result


def parted(text: str | None) -> tuple[str, ...]:
    """Values that commas part; none of nothing."""
    return tuple(part for part in (part.strip() for part in (text or "").split(",")) if part)
