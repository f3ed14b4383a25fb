"""Files find each other by name or number; what does not is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from volattn.scoring.pairing import Pairing, pair_files


def _folder(root: Path, *names: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()
    return root


def _pair(tmp_path: Path, references: tuple[str, ...], predictions: tuple[str, ...]) -> Pairing:
    return pair_files(_folder(tmp_path / "r", *references), _folder(tmp_path / "p", *predictions))


def _names(pairing: Pairing) -> list[tuple[str, str, str]]:
    return [(pair.name, pair.reference.name, pair.prediction.name) for pair in pairing.pairs]


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("segmentation-3.nii.gz", "case_003.nii.gz"),
        ("segmentation-3.nii.gz", "volume-3.nii"),
        ("case_003.nii.gz", "case_003_0000.nii.gz"),
        ("liver_0003.nii.gz", "segmentation-3.nii"),
        ("lits2017_0003.nii.gz", "volume-3.nii.gz"),
        ("patient_anna.nii", "patient_anna.nii.gz"),
    ],
)
def test_names_of_one_case(tmp_path: Path, reference: str, prediction: str) -> None:
    others = ("segmentation-10.nii.gz", "segmentation-30.nii.gz")
    pairing = _pair(tmp_path, (reference, *others), (prediction, *others))
    assert (reference, prediction) in [(pair.reference.name, pair.prediction.name) for pair in pairing.pairs]
    assert (len(pairing.pairs), pairing.references, pairing.predictions) == (3, (), ())


def test_the_order_is_natural_and_the_lonely_are_listed(tmp_path: Path) -> None:
    pairing = _pair(
        tmp_path,
        ("segmentation-10.nii.gz", "segmentation-2.nii.gz", "segmentation-7.nii.gz"),
        ("case_002.nii", "case_010.nii", "case_011.nii"),
    )
    assert [pair.name for pair in pairing.pairs] == ["segmentation-2", "segmentation-10"]
    assert [path.name for path in pairing.references] == ["segmentation-7.nii.gz"]
    assert [path.name for path in pairing.predictions] == ["case_011.nii"]


def test_a_name_goes_before_a_number(tmp_path: Path) -> None:
    names = ("a_1.nii.gz", "b_1.nii.gz")
    assert _names(_pair(tmp_path, names, names)) == [("a_1", names[0], names[0]), ("b_1", names[1], names[1])]


def test_cts_and_numbered_lesions_are_no_label_maps(tmp_path: Path) -> None:
    pairing = _pair(
        tmp_path,
        ("volume-1.nii.gz", "segmentation-1.nii.gz", ".part-2.nii.gz", "notes.txt"),
        ("volume-1.nii.gz", "volume-1_lesions.nii.gz", "volume-1.json", "volume-1.png"),
    )
    assert _names(pairing) == [("segmentation-1", "segmentation-1.nii.gz", "volume-1.nii.gz")]


def test_a_data_set_in_batches(tmp_path: Path) -> None:
    for batch, number in ((1, 4), (2, 28)):
        _folder(tmp_path / "set" / f"batch{batch}", f"volume-{number}.nii", f"segmentation-{number}.nii")
    predictions = _folder(tmp_path / "p", "volume-4.nii.gz", "volume-28.nii.gz")
    assert [pair.name for pair in pair_files(tmp_path / "set", predictions).pairs] == [
        "segmentation-4",
        "segmentation-28",
    ]


def test_two_files_are_a_pair_whatever_their_names(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "one.nii", "other-7.nii.gz")
    assert _names(pair_files(folder / "one.nii", folder / "other-7.nii.gz")) == [("one", "one.nii", "other-7.nii.gz")]


@pytest.mark.parametrize(
    ("references", "predictions", "said"),
    [
        (("a-1.nii", "b-1.nii"), ("c-1.nii",), "number of c-1.nii"),
        (("c-1.nii",), ("a-1.nii", "b-1.nii"), "number of c-1.nii"),
        (("a-1.nii",), ("b-2.nii",), "no file of one belongs to one of the other"),
        (("a-1.nii", "a-1.nii.gz"), ("a-1.nii",), "the same case"),
        (("a-1.nii",), ("a-1.txt",), "holds no label map"),
    ],
)
def test_what_cannot_be_paired(
    tmp_path: Path, references: tuple[str, ...], predictions: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        _pair(tmp_path, references, predictions)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        pair_files(tmp_path / "no", tmp_path)


@pytest.mark.parametrize(
    ("predictions", "left_out"),
    [
        (("anna_seg.nii.gz", "bert_seg.nii.gz"), 0),
        (("anna/anna_trans.nii.gz", "bert/bert_trans.NII"), 0),
        (("anna/labels.nii.gz", "bert/labels.nii.gz", "bert/scan.mha"), 1),
        (("anna.nii.gz", "bert.nii.gz", "old/anna.nii.gz", "plans.json"), 1),
    ],
)
def test_as_other_programs_leave_them(tmp_path: Path, predictions: tuple[str, ...], left_out: int) -> None:
    for name in predictions:
        _folder((tmp_path / "p" / name).parent, Path(name).name)
    pairing = pair_files(_folder(tmp_path / "r", "anna.nii.gz", "bert.nii.gz"), tmp_path / "p")
    assert [pair.name for pair in pairing.pairs] == ["anna", "bert"]
    assert (pairing.predictions, len(pairing.left_out)) == ((), left_out)


def test_several_files_in_each_folder_are_in_doubt(tmp_path: Path) -> None:
    _folder(tmp_path / "p" / "anna", "anna_seg.nii.gz", "anna_image.nii.gz")
    with pytest.raises(ValueError, match="which is the label map is unknown"):
        pair_files(_folder(tmp_path / "r", "anna.nii.gz"), tmp_path / "p")
