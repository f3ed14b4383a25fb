"""Names of cases and files: what they may be, and how they are written and shown."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path

NAME_BYTES = 200
"""Of a case's name in UTF-8: with what is added to it, it must still be a file's name, which may have 255."""
SHOWN = 80
"""Characters of a value in a message."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = SHOWN
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CHANNEL = re.compile(r"_000\d\Z")  # nnU-Net names the images of case_x case_x_0000, ...
_WINDOWS = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?", re.IGNORECASE)


def printable(text: str) -> str:
    """Text that UTF-8 can say: a byte that is not UTF-8 becomes %XX, so that Latin-1's `M\\xfcller` is `M%FCller`."""

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"%{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return _SURROGATES.sub(escaped, text)


def one_line(text: str) -> str:
    """Printable text without control characters, which a name may hold: `a\\x1b[2J` becomes `a%1B[2J`."""
    return _CONTROLS.sub(lambda found: f"%{ord(found[0]):02X}", printable(text))


def cut(text: str, limit: int) -> str:
    """A text on one line, printable, and at most so long."""
    line = "".join(sign if sign.isprintable() else " " for sign in text[: limit + 1])
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def shown(value: object) -> str:
    """A value of a file as a message shows it: of a sane length, on one line."""
    try:
        return cut(_SHORT.repr(value), SHOWN)
    except ValueError:
        return "a number of thousands of digits"


def count_of(count: int, thing: str) -> str:
    """A number and what is counted: `1 case`, `2 cases`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def both(one: Path, other: Path) -> str:
    """Two files of one name for a message, which may not show what they differ in."""
    differ = ", whose names differ in bytes that are not UTF-8" if printable(str(one)) == printable(str(other)) else ""
    return f"{one} and {other}{differ}"


def check_name(name: str) -> str:
    """A case's name, if it is one: it names files, folders and rows, on any system, and leads nowhere else.

    Raises:
        ValueError: It is empty, longer than `NAME_BYTES`, begins with a dot, holds a separator or a control
            character, begins or ends with a space, or is a device's on Windows.
    """
    faults = {
        "is empty": not name,
        "holds a separator of folders": "/" in name or "\\" in name,
        "begins with a dot": name.startswith("."),
        "holds a character that cannot be printed": _CONTROLS.search(name) or _SURROGATES.search(name),
        "begins or ends with a space": name != name.strip(),
        "is the name of a device on Windows": _WINDOWS.fullmatch(name),
        f"has more than {NAME_BYTES} bytes": len(name.encode(errors="replace")) > NAME_BYTES,
    }
    for fault, found in faults.items():
        if found:
            raise ValueError(f"the case name {shown(name)} {fault}; give the case another name")
    return name


def without_channel(name: str) -> str:
    """The name without the number of a channel at its end, as nnU-Net adds to images."""
    return _CHANNEL.sub("", name)


def case_number(name: str) -> int | None:
    """The last number in a name, that of a channel aside; None if there is none.

    `case_0003` has no channel: without the 3 nothing would tell it from other cases.
    """
    number = last_number(without_channel(name))
    return last_number(name) if number is None else number


def last_number(name: str) -> int | None:
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else None
