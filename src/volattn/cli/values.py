"""Several values behind one option: `-i a b c` is `-i a -i b -i c`."""

from __future__ import annotations

from collections.abc import Sequence


def spread(arguments: Sequence[str], options: set[str]) -> list[str]:
    """Repeats an option before each of its values, up to the next option.

    Args:
        arguments: Of the command line.
        options: The options that take several values.
    """
    spreaded: list[str] = []
    current: str | None = None
    fresh = False
    for argument in arguments:
        if argument in options:
            current, fresh = argument, True
            spreaded.append(argument)
        elif argument.startswith("-") and len(argument) > 1:
            current = None
            spreaded.append(argument)
        else:
            if current is not None and not fresh:
                spreaded.append(current)
            fresh = False
            spreaded.append(argument)
    return spreaded
