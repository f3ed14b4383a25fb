"""Valid files made wrong: as a disk, a copy or a hand does it, and as someone would who knows the format."""

from __future__ import annotations

import copy
import gzip
import io
import itertools
import json
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import yaml

_INTEGERS = (0, 1, -1, 2, 7, 127, 128, 255, 32767, 32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**62)
_FLOATS = (0.0, -0.0, 1e-30, 1e30, -1e30, 3.4e38, float("nan"), float("inf"), -float("inf"), 0.5)
_NUMBERS = (*_INTEGERS, *_FLOATS, 1e308, 10**30, 10**400, 1.7)
_TEXTS = ("", " ", "x", "-1", "1e999", "nan", "../../x", "/etc/passwd", "a\nb", "\0", "\ud800", "é", "0" * 5000)
_TOKENS = (
    *("", "-", "nan", "inf", "1e400", "99999999999999999999", "0x10", "1;2", '"', '""', "\0", "\r", "\n", ",,,", ", "),
    *("'", "&a", "*a", "!!set", "!!python/name:os.system", "{", "}", "[", "]", ":", "- ", "? ", "<<", "|", "#", "é"),
)


def mutate(path: Path, content: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """A changed file.

    Args:
        path: Its name says its format.
        content: Valid.
        chance: Decides everything.

    Returns:
        The content, and whether the format's own checksums still tell it from the valid one.
    """
    suffixes = "".join(path.suffixes[-2:])
    for ending, change, sums in (
        (".nii.gz", _zipped, True),
        (".nii", _header_field, False),
        (".png", _chunk, True),
        (".json", _tree, False),
        (".yaml", _yaml, False),
        (".csv", _table, False),
        (".jsonl", _tokens, False),
        (".safetensors", _safetensors, False),
        (".pth", _archive, False),
        (".b2nd", _block_bytes, True),
    ):
        if suffixes.endswith(ending):
            if chance.random() < 0.4:
                return _block_bytes(content, chance), sums
            return change(content, chance), False
    return _block_bytes(content, chance), False


def _block_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bits flipped, blocks cut out, put in, doubled or swapped, the end cut off."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        size = len(changed)
        at = chance.randrange(size + 1) if chance.random() < 0.6 else chance.randrange(min(size, 400) + 1)
        length = chance.choice((1, 2, 4, 8, 64, 1000))
        kind = chance.randrange(8)
        if kind == 0 and size:
            changed[min(at, size - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + length] = chance.choice((b"\0", b"\xff", b" ")) * length
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = chance.randbytes(length)
        elif kind == 5:
            changed[at:at] = changed[at : at + length] * chance.choice((1, 3))
        elif kind == 6:
            changed[at : at + length] = chance.randbytes(length)
        else:
            changed[at : at + 8] = _number(chance)
    return bytes(changed)


def _number(chance: random.Random) -> bytes:
    """An extreme number in binary."""
    form = chance.choice("bhiqBHIQfd")
    if form in "fd":
        return struct.pack(chance.choice("<>") + form, chance.choice(_FLOATS))
    bits = 8 * struct.calcsize(form)
    value = chance.choice(_INTEGERS) % 2**bits
    if form.islower() and value >= 2 ** (bits - 1):
        value -= 2**bits
    return struct.pack(chance.choice("<>") + form, value)


def _header_field(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2))):
        at = 2 * chance.randrange(174)
        number = _number(chance)
        changed[at : at + len(number)] = number
    return bytes(changed) if chance.random() < 0.8 else _block_bytes(content, chance)


def _zipped(content: bytes, chance: random.Random) -> bytes:
    return gzip.compress(_header_field(gzip.decompress(content), chance), mtime=0)


def _chunk(content: bytes, chance: random.Random) -> bytes:
    """A PNG whose chunks are wrong and their checksums right."""
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += length + 12
    place = chance.randrange(len(chunks))
    name, data = chunks[place]
    kind = chance.randrange(5)
    if kind == 0:
        number = struct.pack(">I", chance.choice((0, 1, 4096, 4097, 2**16, 2**31 - 1, 2**32 - 1)))
        first = chance.choice((0, 4))
        chunks[0] = (chunks[0][0], chunks[0][1][:first] + number + chunks[0][1][first + 4 :])
    elif kind == 1:
        chunks[place] = (name, _block_bytes(data, chance))
    elif kind == 2:
        chunks.insert(place, chunks[chance.randrange(len(chunks))])
    elif kind == 3:
        del chunks[place]
    else:
        extra = chance.choice((b"zTXt", b"iCCP", b"tRNS", b"acTL", b"PLTE", b"gAMA", b"iTXt", b"sBIT"))
        chunks.insert(place, (extra, chance.choice((b"", b"a\0\0" + zlib.compress(bytes(10**7)), chance.randbytes(9)))))
    written = io.BytesIO(content[:8])
    written.seek(8)
    for name, data in chunks:
        written.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return written.getvalue()


def changed_tree(content: Any, chance: random.Random) -> Any:
    """Values of JSON replaced by other types and extremes, keys renamed, dropped and added."""
    changed = copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place, keys = changed, list(_keys(changed))
        while keys:
            key = chance.choice(keys)
            below = list(_keys(place[key]))
            if not below or chance.random() < 0.25:
                break
            place, keys = place[key], below
        if not keys:
            return _value(chance)
        kind = chance.randrange(6)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place[chance.choice(_TEXTS)] = place.pop(key)
        elif kind == 2 and isinstance(place, dict):
            place[chance.choice((*_TEXTS, "name"))] = _value(chance)
        elif kind == 3 and isinstance(place, list):
            place *= chance.choice((2, 3, 50))
        else:
            place[key] = _value(chance)
    return changed


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return value.keys()
    return range(len(value)) if isinstance(value, list) else ()


def _value(chance: random.Random) -> Any:
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice(_TEXTS)
    if kind == 1:
        return chance.choice((None, True, False, [], {}, [[]], {"a": 1}, [None] * 3, ["x"] * 500))
    if kind == 2:
        nested: Any = 1
        for _ in range(chance.choice((3, 50, 900))):
            nested = [nested] if chance.random() < 0.5 else {"a": nested}
        return nested
    return chance.choice(_NUMBERS)


def _tree(content: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return _tokens(content, chance)
    text = json.dumps(changed_tree(json.loads(content), chance), ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.02:
        text = "[" * chance.choice((500, 100_000)) + text
    return chance.choice((b"", b"", b"\xef\xbb\xbf")) + text.encode("utf-8", "surrogatepass")


def _yaml(content: bytes, chance: random.Random) -> bytes:
    """JSON is YAML; and its own ways of saying more."""
    kind = chance.randrange(4)
    if kind == 0:
        names = [f"a{number}" for number in range(chance.randrange(2, 12))]
        lines = [f"{names[0]}: &{names[0]} x\n"]
        lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise(names)]
        return "".join(lines).encode() + content
    if kind == 1:
        text = json.dumps(changed_tree(yaml.safe_load(content), chance), ensure_ascii=chance.random() < 0.5)
        return text.encode("utf-8", "surrogatepass")
    return _tokens(content, chance)


def _tokens(content: bytes, chance: random.Random) -> bytes:
    """A text with some of its words, signs and lines swapped."""
    changed = content
    for _ in range(chance.choice((1, 2, 6))):
        at = chance.randrange(len(changed) + 1)
        token = chance.choice(_TOKENS).encode() * chance.choice((1, 1, 1, 3, 2000))
        changed = changed[:at] + token + changed[at + chance.choice((0, 1, 3, 20)) :]
    return changed


def _table(content: bytes, chance: random.Random) -> bytes:
    rows = [line.split(b",") for line in content.splitlines()]
    for _ in range(chance.choice((1, 1, 3))):
        row = chance.choice(rows)
        kind = chance.randrange(5)
        if kind == 0 and row:
            row[chance.randrange(len(row))] = chance.choice((*_TOKENS, *map(str, _FLOATS))).encode()
        elif kind == 1:
            row[:] = [b""] * chance.randrange(9)
        elif kind == 2:
            rows.insert(chance.randrange(len(rows)), list(chance.choice(rows)))
        elif kind == 3:
            row.append(b'"' + b"x" * chance.choice((3, 200_000)))
        else:
            row.insert(chance.randrange(len(row) + 1), row[0] if row else b"")
    return chance.choice((b"", b"\xef\xbb\xbf")) + chance.choice((b"\n", b"\r\n", b"\r")).join(map(b",".join, rows))


def _safetensors(content: bytes, chance: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    head, data = content[8 : 8 + length], content[8 + length :]
    kind = chance.randrange(3)
    if kind == 0:
        return struct.pack("<Q", chance.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))) + head + data
    if kind == 1:
        entries = json.loads(head)
        name, other = chance.choices(list(entries), k=2)
        shape, offsets = entries[name]["shape"], entries[other]["data_offsets"]
        values: dict[str, tuple[Any, ...]] = {
            "dtype": ("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", ""),
            "shape": ([], [0], [2**40], [2**32, 2**32], [-1], [1] * 99, shape[::-1]),
            "data_offsets": ([0, 4], [4, 0], [0, 2**62], [2**63, 2**63], offsets),
        }
        key = chance.choice(list(values))
        entries[name][key] = chance.choice(values[key])
        head = json.dumps(entries).encode()
    else:
        head = _tree(head, chance)
    return struct.pack("<Q", len(head)) + head + data


def _archive(content: bytes, chance: random.Random) -> bytes:
    """A `.pth` whose pickle or records are wrong and the archive around them right; or its old format."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return _block_bytes(content, chance)
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(written, "w") as after:
        chosen = chance.choice(before.namelist()) if chance.random() < 0.3 else None
        for name in before.namelist():
            record = before.read(name)
            if name == chosen or (chosen is None and name.endswith("data.pkl")):
                kind = chance.randrange(6)
                if kind == 0:
                    continue
                record = _numbers_in_pickle(record, chance) if kind < 3 else _block_bytes(record, chance)
            method = zipfile.ZIP_DEFLATED if chance.random() < 0.05 else zipfile.ZIP_STORED
            after.writestr(zipfile.ZipInfo(name), record, method)
    return written.getvalue()


def _numbers_in_pickle(record: bytes, chance: random.Random) -> bytes:
    """Whole numbers of a pickle replaced: how long storages and tensors are, and where they begin."""
    places = [at for at in range(len(record) - 1) if record[at : at + 1] in (b"K", b"M", b"J")]
    if not places:
        return record
    at = chance.choice(places)
    length = {b"K": 2, b"M": 3, b"J": 5}[record[at : at + 1]]
    number = chance.choice((0, 1, 3, 255, 10**6, 2**31 - 1, -1))
    return record[:at] + b"J" + struct.pack("<i", number) + record[at + length :]
