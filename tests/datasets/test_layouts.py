"""Every layout gives the same cases; each reader passes the same contract."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from volattn.datasets.case import Dataset
from volattn.datasets.open import open_dataset
from volattn.io.readers import read_labels, read_volume

NUMBERS = (2, 10, 1)
WriteCase = Callable[..., tuple[Path, Path]]


def describe(root: Path, **entries: object) -> None:
    (root / "dataset.json").write_text(json.dumps(entries))


def place(pair: tuple[Path, Path], image: Path, labels: Path) -> None:
    """Moves a written case to where a layout wants it."""
    for source, target in zip(pair, (image, labels), strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)


def lits(root: Path, write: WriteCase) -> tuple[str, ...]:
    for number in NUMBERS:
        write(number, root, suffix=".nii" if number == 2 else ".nii.gz")
    return ("volume-1", "volume-2", "volume-10")


def lits_in_batches(root: Path, write: WriteCase) -> tuple[str, ...]:
    for number in NUMBERS:
        write(number, root / f"Training Batch {1 + number // 5}")
    return ("volume-1", "volume-2", "volume-10")


def msd(root: Path, write: WriteCase) -> tuple[str, ...]:
    for number in NUMBERS:
        name = f"liver_{number}.nii.gz"
        place(write(number), root / "imagesTr" / name, root / "labelsTr" / name)
    describe(
        root,
        labels={"0": "background", "1": "liver", "2": "lesion"},
        numTraining=3,
        training=[{"image": f"./imagesTr/liver_{n}.nii.gz", "label": f"./labelsTr/liver_{n}.nii.gz"} for n in NUMBERS],
        test=["./imagesTs/liver_7.nii.gz"],
    )
    return ("liver_1", "liver_2", "liver_10")


def nnunet_version_1(root: Path, write: WriteCase) -> tuple[str, ...]:
    names = msd(root, write)
    for path in (root / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    return names


def nnunet(root: Path, write: WriteCase) -> tuple[str, ...]:
    for number in NUMBERS:
        place(
            write(number), root / "imagesTr" / f"case_{number}_0000.nii.gz", root / "labelsTr" / f"case_{number}.nii.gz"
        )
    (root / "imagesTr" / "._case_1_0000.nii.gz").write_text("left by a file manager")
    describe(
        root,
        channel_names={"0": "CT"},
        labels={"background": 0, "liver": 1, "lesion": 2},
        numTraining=3,
        file_ending=".nii.gz",
    )
    return ("case_1", "case_2", "case_10")


def nnunet_listed(root: Path, write: WriteCase) -> tuple[str, ...]:
    names = nnunet(root, write)
    describe(
        root,
        channel_names={"0": "CT"},
        labels={"background": 0, "liver": 1, "lesion": 2},
        numTraining=3,
        file_ending=".nii.gz",
        dataset={
            name: {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.nii.gz"}
            for name in reversed(names)
        },
    )
    return names


@pytest.fixture(params=[lits, lits_in_batches, msd, nnunet_version_1, nnunet, nnunet_listed])
def opened(request, tmp_path: Path, write_lits_case: WriteCase) -> tuple[Dataset, tuple[str, ...]]:
    root = tmp_path / "data"
    root.mkdir()
    names = request.param(root, write_lits_case)
    return open_dataset(root), names


def test_cases_come_in_natural_order(opened: tuple[Dataset, tuple[str, ...]]) -> None:
    dataset, names = opened
    assert tuple(case.name for case in dataset.cases) == names
    assert dataset.expected in (None, 3)


def test_files_belong_together(opened: tuple[Dataset, tuple[str, ...]]) -> None:
    for case in opened[0].cases:
        assert case.labels is not None
        volume, labels = read_volume(case.image), read_labels(case.labels)
        assert volume.geometry.disagreement(labels.geometry) < 1e-3
        assert opened[0].scheme.normalise(labels.array).max() == 2
    contents = {read_volume(case.image).array.tobytes() for case in opened[0].cases}
    assert len(contents) == 3, "every case has its own image"


def test_classes_come_from_the_data_set(opened: tuple[Dataset, tuple[str, ...]]) -> None:
    scheme = opened[0].scheme
    assert scheme.classes == ("liver", "lesion")
    assert (scheme.organ_values, scheme.lesion_values) == ((1,), (2,))
    stored = np.array([[[0, 1, 2]]], np.int16)
    assert scheme.normalise(stored).tolist() == [[[0, 1, 2]]]


def test_half_a_case_is_listed_for_the_check(tmp_path: Path, write_lits_case: WriteCase) -> None:
    image, segmentation = write_lits_case(1)
    other, _ = write_lits_case(2)
    segmentation.unlink()
    other.unlink()
    first, second = open_dataset(image.parent).cases
    assert (first.image, first.labels) == (image, None)
    assert (second.image.name, second.image.exists()) == ("volume-2.nii.gz", False)


def test_half_a_case_is_listed_for_the_check_in_nnunet(tmp_path: Path, write_lits_case: WriteCase) -> None:
    nnunet(tmp_path, write_lits_case)
    (tmp_path / "imagesTr" / "case_1_0000.nii.gz").unlink()
    (tmp_path / "labelsTr" / "case_2.nii.gz").unlink()
    first, second, _ = open_dataset(tmp_path).cases
    assert (first.name, first.image.exists()) == ("case_1", False)
    assert (second.name, second.labels) == ("case_2", None)


def test_the_same_case_twice_is_refused(write_lits_case: WriteCase) -> None:
    image, _ = write_lits_case(1)
    write_lits_case(1, suffix=".nii")
    with pytest.raises(ValueError, match="same case"):
        open_dataset(image.parent)


def test_the_description_may_be_named(tmp_path: Path, write_lits_case: WriteCase) -> None:
    names = msd(tmp_path, write_lits_case)
    assert tuple(case.name for case in open_dataset(tmp_path / "dataset.json").cases) == names


@pytest.mark.parametrize("channels", [{"0": "PET", "1": "CT"}, {"0": "CT", "1": "PET"}])
def test_of_several_channels_the_ct_is_taken(channels: dict[str, str], write_description: Callable[..., Path]) -> None:
    root = write_description(channel_names=channels, labels={"background": 0, "lesion": 1})
    (root / "imagesTr").mkdir()
    for number in (0, 1):
        (root / "imagesTr" / f"a_{number:04d}.nii.gz").touch()
    (case,) = open_dataset(root).cases
    assert channels[str(int(case.image.name[2:6]))] == "CT"


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"labels": {}}, "no labels"),
        ({"labels": {"0": "background", "1": "liver"}, "training": []}, "named like a lesion"),
        ({"labels": {"background": 0, "liver": 1}}, "named like a lesion"),
        ({"labels": {"0": "background", "1": "lesion"}, "training": []}, "no cases"),
        ({"labels": {"0": "background", "1": "lesion"}, "training": ["a.nii"]}, "an image and a label"),
        ({"labels": {"0": "background", "1": "lesion", "2": "lesion"}}, "one name"),
        ({"labels": {"background": 0, "lesion": "two"}}, "whole number"),
        ({"labels": {"background": 0, "lesion": 999}}, "0 to 255"),
        ({"labels": {"background": 0, "lesion": 1}, "file_ending": ".nrrd"}, "convert"),
        ({"labels": {"background": 0, "lesion": 1}, "channel_names": {"0": "T1", "1": "T2"}}, "named CT"),
        ({"labels": {"background": 0, "lesion": 1}, "dataset": {"a": {"images": []}}}, "an image and a label"),
    ],
)
def test_unusable_descriptions(entries: dict[str, object], reason: str, write_description: Callable[..., Path]) -> None:
    root = write_description(**entries)
    with pytest.raises(ValueError, match=reason) as caught:
        open_dataset(root)
    assert str(caught.value).startswith(str(root))


@pytest.mark.parametrize("text", ["{", 200_000 * "["])
def test_broken_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match="not valid JSON"):
        open_dataset(tmp_path)


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        open_dataset(tmp_path / "no")
    with pytest.raises(ValueError, match="known layout; it needs"):
        open_dataset(tmp_path)
    (tmp_path / "Task03_Liver").mkdir()
    (tmp_path / "Task03_Liver" / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match=r"give .*Task03_Liver"):
        open_dataset(tmp_path)


def test_real_folder(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "lits")
    assert [case.name for case in dataset.cases] == ["volume-44"]


@pytest.mark.parametrize(
    ("labels", "described"),
    [
        ({"background": 0, "liver": 1, "HCC": 2, "metastasis": 3}, "organ: liver; lesion: HCC + metastasis, merged"),
        ({"background": 0, "liver": [1, 2], "tumour": 2}, "organ: liver; lesion: tumour"),
        ({"background": 0, "lesion": 1}, "lesion: lesion"),
    ],
)
def test_how_labels_are_read_is_described(
    tmp_path: Path, write_lits_case: WriteCase, labels: dict[str, object], described: str
) -> None:
    msd(tmp_path, write_lits_case)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": labels}))
    assert open_dataset(tmp_path).described_labels == described


def test_lits_is_described_by_its_scheme(write_lits_case: WriteCase) -> None:
    image, _ = write_lits_case(1)
    assert open_dataset(image.parent).described_labels == "organ: liver; lesion: lesion"
