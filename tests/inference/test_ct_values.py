"""What cannot be a CT's HU is refused by `check`, `prepare` and `predict` alike, and taken by all with `--force`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from boxes_in_ct import box_predictor
from small_deeplesion import row, write_folder

from volattn.datasets.check import check_dataset
from volattn.datasets.ct_values import check_values
from volattn.datasets.open import open_dataset
from volattn.inference.key_slices import predict_key_slices
from volattn.inference.results import predict_files
from volattn.io.readers import read_volume, write_volume
from volattn.io.readers.png import read_slice, write_slice
from volattn.phantoms.make import make_phantom
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.preprocessing.store import case_folder
from volattn.structures.volume import Volume

Array = np.ndarray
WINDOW = (-160, 240)


def _windowed(hu: Array) -> Array:
    return np.clip(hu, *WINDOW)


WRONG: dict[str, Callable[[Array], Array]] = {
    "stored with +1024": lambda hu: hu + 1024,
    "stored with +1024, padded": lambda hu: np.where(np.arange(len(hu))[:, None, None] < 2, -1000, hu + 1024),
    "stored with +1000": lambda hu: hu + 1000,
    "intercept twice": lambda hu: hu - 1024,
    "16 bits without a sign": lambda hu: hu.astype(np.int32) + 32768,
    "negated": lambda hu: -hu,
    "0 to 1": lambda hu: ((_windowed(hu) + 160) / 400).astype(np.float32),
    "0 to 255": lambda hu: ((_windowed(hu) + 160) / 400 * 255).astype(np.uint8),
    "-1 to 1": lambda hu: (hu / 1024).astype(np.float32),
    "normalised": lambda hu: ((hu - hu.mean()) / hu.std()).astype(np.float32),
    "windowed": _windowed,
    "windowed wider": lambda hu: np.clip(hu, -450, 550),
    "MR": lambda hu: np.abs(np.random.default_rng(0).normal(300, 150, hu.shape)).astype(np.float32),
    "MR with negative values": lambda hu: np.random.default_rng(0).normal(300, 100, hu.shape).astype(np.float32),
    "label map": lambda hu: np.digitize(hu, [-500, 30, 60, 90]).astype(np.uint8),
    "many labels": lambda hu: np.digitize(hu, range(-1000, 200, 10)).astype(np.uint8),
    "mask": lambda hu: (hu > 0).astype(np.uint8),
    "mask of 255": lambda hu: (hu > 0).astype(np.uint8) * np.uint8(255),
    "nothing": np.zeros_like,
    "air only": lambda hu: np.full_like(hu, -1000),
    "one value of tissue": lambda hu: np.full_like(hu, 40),
    "beyond float32": lambda hu: hu * 1e300,
    "infinite": lambda hu: np.where(hu > 0, np.inf, hu),
}
NEVER = {"beyond float32", "infinite"}
"""What --force does not take either."""


@pytest.fixture
def lits(write_lits_case: Callable[..., tuple[Path, Path]]) -> tuple[Path, Path]:
    image, _ = write_lits_case(1, shape=(12, 40, 48), suffix=".nii")
    return image.parent, image


def check(folder: Path, image: Path, force: bool) -> list[str]:
    found = check_dataset(open_dataset(folder), force)
    assert all(finding.severity == ("note" if force else "error") for finding in found)
    return [str(finding).partition(": ")[2] for finding in found if finding.file == image]


def prepare(folder: Path, image: Path, force: bool) -> list[str]:
    store = folder.parent / "store"
    try:
        outcome = prepare_dataset(open_dataset(folder), Plan(size=32), store, force=force)
    except ValueError as error:
        return [str(error).partition("first: ")[2]]
    (name,) = outcome.store.names
    written = json.loads((case_folder(store, name) / "case.json").read_text())
    assert written.get("notes", []) == [note.removeprefix(f"{name}: ") for note in outcome.notes]
    return [note.replace("volume-1: ", f"{image}: ", 1) for note in outcome.notes]


def predict(folder: Path, image: Path, force: bool) -> list[str]:
    out = folder.parent / "out"
    (outcome,) = predict_files(box_predictor(), [image], out, force=force)
    if outcome.status == "failed":
        assert not list(out.glob("*volume-1*"))
        return [outcome.message]
    assert json.loads((out / "volume-1.json").read_text())["notes"] == list(outcome.notes)
    return [f"{image}: {note}" for note in outcome.notes]


VERBS = pytest.mark.parametrize("verb", [check, prepare, predict], ids=lambda verb: verb.__name__)


@VERBS
def test_a_ct_is_taken(verb: Callable[..., list[str]], lits: tuple[Path, Path]) -> None:
    assert verb(*lits, False) == []


@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind != "beyond float32"])
def test_what_is_no_ct_is_refused(kind: str, lits: tuple[Path, Path]) -> None:
    array = WRONG[kind](read_volume(lits[1]).array)
    with pytest.raises(ValueError, match=r"^one: .*; ") as refused:
        check_values(array, "one")
    assert (kind in NEVER) != ("or say --force if it is right" in str(refused.value))
    if kind not in NEVER:
        note = check_values(array, "one", force=True)
        assert note is not None
        assert note.endswith("; taken as it is (--force)")


@VERBS
@pytest.mark.parametrize("kind", ["stored with +1024", "windowed", "mask", "beyond float32"])
@pytest.mark.usefixtures("no_picture")
def test_all_verbs_refuse_it_or_note_it(kind: str, verb: Callable[..., list[str]], lits: tuple[Path, Path]) -> None:
    folder, image = lits
    volume = read_volume(image)
    write_volume(image, Volume(WRONG[kind](volume.array), volume.geometry))
    (message,) = verb(folder, image, False)
    assert message.startswith(f"{image}: ")
    assert "; " in message
    assert "\n" not in message
    assert (kind in NEVER) != ("or say --force if it is right" in message)
    if kind not in NEVER:
        (note,) = verb(folder, image, True)
        assert note.endswith("; taken as it is (--force)")
        assert message.partition(";")[0] == note.partition(";")[0]


def test_a_case_that_was_forced_into_a_store_does_not_stay_unforced(lits: tuple[Path, Path]) -> None:
    folder, image = lits
    volume = read_volume(image)
    write_volume(image, Volume(volume.array + 1024, volume.geometry))
    assert prepare(folder, image, True)
    assert "intercept" in prepare_again(folder, force=False)
    assert prepare_again(folder, force=True) == ""


def prepare_again(folder: Path, force: bool) -> str:
    try:
        prepare_dataset(open_dataset(folder), Plan(size=32), folder.parent / "store", force=force)
    except ValueError as error:
        return str(error)
    return ""


def test_grey_values_of_8_bits_are_named(lits: tuple[Path, Path]) -> None:
    grey = WRONG["0 to 255"](read_volume(lits[1]).array)
    with pytest.raises(ValueError, match=r"these are grey values of 8 bits: .*, or undo the window"):
        check_values(grey, "ct.nii.gz")


@pytest.mark.parametrize("kind", ["stored with +1024", "0 to 255", "mask", "nothing", "windowed"])
def test_key_slices_are_judged_in_the_same_way(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    written = write_folder(root, [row(Train_Val_Test="3"), row("000002_01_01", Train_Val_Test="3")])
    for path in written:
        if "000001" in path.parent.name:
            write_slice(path, WRONG[kind](read_slice(path)[None])[0].astype(np.int16))
    dataset = open_dataset(root)
    for force in (False, True):
        (finding,) = (one for one in check_dataset(dataset, force) if one.case)
        found = predict_key_slices(
            box_predictor(name="faster_rcnn"), dataset, tmp_path / f"out-{force}", force=force, resume=True
        )
        outcome = prepare_dataset(dataset, Plan(size=32, z_spacing=2.0), tmp_path / "store", force=force)
        if force:
            assert finding.severity == "note"
            notes = [note for note in found.notes if note.startswith("000001")]
            assert notes == list(outcome.notes)
            assert notes == [f"000001_01_01_005: {finding.message.removeprefix('row 2: ')}"]
            assert notes[0] in json.loads((tmp_path / "out-True" / "detections.json").read_text())["notes"]
            again = predict_key_slices(
                box_predictor(name="faster_rcnn"), dataset, tmp_path / "out-True", force=True, resume=True
            )
            assert again.notes == found.notes
        else:
            assert finding.severity == "error"
            message = f"{finding.file}: {finding.message}"
            assert found.failed == outcome.failed == {"000001_01_01_005": message}
            assert found.predicted == outcome.prepared == ("000002_01_01_005",)


@pytest.mark.parametrize(("seed", "size"), [(0, 48), (1, 64), (2, 96)])
def test_phantoms_are_cts(seed: int, size: int) -> None:
    hu = make_phantom(seed, seed, size).image
    assert check_values(hu, "phantom") is None
    assert check_values(np.where(np.arange(size) < size // 8, -3024, hu), "padded") is None


@pytest.mark.slow
def test_real_cts_and_their_parts_are_cts(shared_data: Path) -> None:
    for name, hu in _real(shared_data):
        depth, height, width = hu.shape
        middle = slice(depth // 4, depth // 4 + max(4, depth // 8))
        for size in (512, 256, 128, 64):
            rows, columns = (slice((n - min(n, size)) // 2, (n + min(n, size)) // 2) for n in (height, width))
            assert check_values(hu[middle, rows, columns], f"{name}, {size} pixels") is None
        for kind, wrong in WRONG.items():
            assert _refused(wrong(hu[middle])), f"{name}: {kind}"


def _refused(array: Array) -> bool:
    try:
        check_values(array, "one")
    except ValueError:
        return True
    return False


def _real(folder: Path) -> Iterator[tuple[str, Array]]:
    for path in (folder / "lits" / "volume-44.nii.gz", folder / "chaos" / "volume-3.nii.gz"):
        yield path.name, read_volume(path).array
    reader = SimpleITK.ImageSeriesReader()
    for series in ("example_ct", "hcc_048"):
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "dicom" / series)))
        yield series, SimpleITK.GetArrayFromImage(reader.Execute()).astype(np.int16)
    for scan in sorted((folder / "deeplesion" / "Images_png").iterdir()):
        yield scan.name, np.stack([read_slice(path) for path in sorted(scan.glob("*.png"))])
