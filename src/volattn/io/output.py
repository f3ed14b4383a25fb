"""Where output goes: claimed before any work, so that no input and no file of another program is lost."""

from __future__ import annotations

import gzip
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from volattn.io.files import is_leftover, is_stream, read_json, write_json
from volattn.io.names import shown

LOCK = ".volattn.lock"
"""The operating system frees a lock when its process ends; the file stays, for a waiting process may have it open."""

SIGNATURE = "volattn"
"""In files of this program: NIfTI's `descrip`, PNG's Software, the generator of pages."""

_HEAD = 4096


def claim_file(path: Path | str, *, inputs: Iterable[Path | str | None] = (), replaces: Iterable[str] = ()) -> Path:
    """The path to write a file to, after removing what a killed write left of it.

    Args:
        path: A link is followed, since the user named it; devices and pipes are written into.
        inputs: Files and folders that this call reads; None among them is passed over.
        replaces: Keys of a JSON file of this program that may be replaced although it lies in a folder of `inputs`.

    Raises:
        ValueError: It is a folder, a socket or a disk, an input of this call, or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a file, such as {path / 'scores.json'}")
    if is_stream(path):
        return path
    target = path.resolve() if path.is_symlink() else path
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = target.stat().st_mode
        if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
            raise ValueError(f"{path}: is a {'socket' if stat.S_ISSOCK(mode) else 'disk'}; give another file")
    for given in inputs:
        if given is not None and target.exists():
            _refuse_input(path, target, Path(given), tuple(replaces))
    _probe(target.parent, path)
    for left in target.parent.glob(f".part-*-{escape(target.name)}"):
        if is_leftover(left):
            left.unlink(missing_ok=True)
    return target


@contextmanager
def claim_folder(
    folder: Path | str,
    *,
    marker: str | None = None,
    what: str = "",
    settings: Mapping[str, Any] | None = None,
    resume: bool = True,
    lock: str = LOCK,
    links: str | None = None,
    wait: float = 0,
) -> Iterator[Path]:
    """Keeps a folder to this run while the block lasts, and removes what killed writes left in it.

    The folder is made if there is none, and removed again if it stays empty.

    Args:
        marker: The file that makes the folder one of this program's, e.g. `job.json`; without that file a folder must
            be empty. None takes a folder with other files in it; see `check_replaceable`.
        what: What a folder with the marker is, for errors, e.g. "store".
        settings: All that the folder's content depends on, as JSON values. They are written into the marker; what is
            found there must be the same, so that finished work can be kept. None leaves the marker to the caller.
        resume: Whether a folder that has the marker may be continued.
        lock: Name of the lock's file, where several processes share the folder.
        links: Pattern of the links in the folder that the run itself makes.
        wait: Seconds to wait for another process that holds it.

    Raises:
        ValueError: It is a file, cannot be written, holds other files, a link out of it or the work of other settings,
            may not be continued, or another process holds it.
    """
    folder = Path(folder)
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; give a folder")
    made = not folder.exists()
    if made:
        _probe(folder.parent, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if marker is not None:
            _check_owner(folder, marker, what, links)
        holder = FileLock(folder / lock, timeout=wait)
        while not holder.is_locked:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # Who held it may have removed both: see below.
                holder.acquire()
    except Timeout:
        raise ValueError(
            f"{folder}: another process is writing to it; wait until it is done, or give another folder"
        ) from None
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror}); give another folder") from None
    try:
        if marker is not None:
            _check_settings(folder, folder / marker, what, settings, resume)
        sweep(folder)
        yield folder
    finally:
        with suppress(OSError):
            if made and all(path.name == lock for path in folder.iterdir()):
                # While it is held: who waits for it sees that it is gone, and makes it again.
                (folder / lock).unlink()
                folder.rmdir()
        holder.release()


def _check_settings(folder: Path, marker: Path, what: str, settings: Mapping[str, Any] | None, resume: bool) -> None:
    if not marker.is_file():
        if settings is not None:
            write_json(marker, settings)
        return
    if not resume:
        raise ValueError(f"{folder}: already holds a {what}; continue it with --resume, or give another folder")
    if settings is None:
        return
    before = read_json(marker)
    changed = list(_changes(before if isinstance(before, dict) else {}, json.loads(json.dumps(settings))))
    if changed:
        raise ValueError(f"{folder}: holds a {what} of another {', '.join(changed[:3])}; give another folder")


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Each value that is not the same, as `plan.size (512, now 1024)`."""
    for key in dict.fromkeys([*before, *after]):
        one, other = before.get(key), after.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _changes(one, other, f"{at}{key}.")
        elif one != other:
            yield f"{at}{key} ({shown(one)}, now {shown(other)})"


def sweep(folder: Path, *, below: bool = False) -> None:
    """Removes what killed writes left in a folder that the caller has claimed, with `below` in its subfolders too."""
    for place, folders, files in os.walk(folder):
        for name in files:
            path = Path(place, name)
            if is_leftover(path):
                path.unlink(missing_ok=True)
        if not below:
            folders.clear()


def check_replaceable(paths: Iterable[Path]) -> None:
    """Raises a ValueError if a file is there without this program's signature: another program or a person made it."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            raise ValueError(f"{path}: is a folder where a file is to be written; give another folder")
        if (path.exists() or path.is_symlink()) and not made_here(path):
            raise ValueError(
                f"{path}: was not written by volattn and would be replaced; move it, or give another folder"
            )


def made_here(path: Path) -> bool:
    """Whether a file bears this program's signature; links and damaged files do not."""
    if path.is_symlink() or not path.is_file():
        return False
    if path.suffix == ".csv":  # A table has no place for a signature: what was noted beside it has.
        return made_here(path.with_suffix(".journal"))
    if path.suffix == ".json":
        content = _json_object(path)
        # What a crash of the machine left of a result still has the result's picture beside it.
        return _is_signed(content) if content is not None else made_here(path.with_suffix(".png"))
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                head = file.read(_HEAD)
    except (OSError, EOFError):
        return False
    sign = SIGNATURE.encode()
    if path.suffix == ".journal":
        return b'"volattn": ' in head.partition(b"\n")[0]
    if path.suffix == ".png":
        return b"tEXtSoftware\0" + sign in head
    if path.suffix == ".html":
        return b'<meta name="generator" content="' + sign in head
    return any(head[place : place + len(sign)] == sign for place in (148, 240))  # descrip of NIfTI 1 and 2


def _json_object(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _is_signed(content: dict[str, Any]) -> bool:
    return isinstance(content.get("versions"), dict) and SIGNATURE in content["versions"]


def _refuse_input(named: Path, target: Path, given: Path, replaces: tuple[str, ...]) -> None:
    if given.is_dir():
        if not target.resolve().is_relative_to(given.resolve()):
            return
        content = _json_object(target) if replaces else None
        if content is None or not _is_signed(content) or not all(key in content for key in replaces):
            raise ValueError(f"{named}: lies in {given}, which this command reads; give another file")
    elif given.exists() and target.samefile(given):
        raise ValueError(f"{named}: is read by this command, which would destroy it; give another file")


def _check_owner(folder: Path, marker: str, what: str, links: str | None) -> None:
    """Refuses a folder that holds something else, and links in it that lead elsewhere."""
    if not (folder / marker).is_file():
        for path in folder.iterdir():
            if not (path.name.startswith(LOCK) or is_leftover(path)):
                raise ValueError(
                    f"{folder}: is not empty and holds no {what} ({path.name} is there); give an empty or a new folder"
                )
        return
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if not path.is_symlink() or (links is not None and path.relative_to(folder).match(links)):
                continue
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{path}: is a link that leads out of {folder}; put what it means in its place")


def _probe(folder: Path, named: Path) -> None:
    """Whether a file can be made in a folder, or in the nearest one above it that is there."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists() or place == place.parent)
    if not nearest.is_dir():
        raise ValueError(f"{named}: cannot be written, {nearest} is a file; give another place")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(f"{named}: cannot be written ({error.strerror}); give another place") from None
