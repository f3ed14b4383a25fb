"""Many CTs in, four files each out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import SimpleITK
from boxes_in_ct import LESION_BOXES, SHAPE, box_predictor, ct, truth, turns

from volattn.datasets.case import Case
from volattn.inference.inputs import References, find_inputs
from volattn.inference.predict import Predictor
from volattn.inference.prediction import Files
from volattn.inference.results import predict_files
from volattn.io.files import sha256
from volattn.io.output import LOCK
from volattn.io.readers import read_labels, read_volume, volume_name, write_labels, write_volume
from volattn.models.segmenters.crf import CrfConfig
from volattn.provenance import Provenance

ORGAN_AND_LESION = ("liver", "lesion")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _raise(error: Exception) -> NoReturn:
    raise error


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A CT in odd axes."""
    path = tmp_path / "in" / "case-7.nii.gz"
    write_volume(path, ct(list(turns())[29]))
    return path


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("index", [0, 13, 46])
@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_four_files_on_the_grid_of_the_input(tmp_path: Path, index: int, tilt: float) -> None:
    turn = list(turns())[index]
    path = tmp_path / "boxes.nii"
    write_volume(path, ct(turn, tilt))
    (outcome,) = predict_files(box_predictor(), [path], tmp_path / "out")
    assert (outcome.name, outcome.status, outcome.lesions) == ("boxes", "predicted", 2)
    assert outcome.seconds > 0
    files = Files.of(tmp_path / "out", "boxes", masks=True)
    assert sorted((tmp_path / "out").iterdir()) == sorted([tmp_path / "out" / LOCK, *files])

    labels = read_labels(files.labels)
    np.testing.assert_array_equal(turn.apply(labels.array), truth())
    lesions = read_labels(files.lesions)
    np.testing.assert_array_equal(lesions.array > 0, labels.array == 2)
    assert labels.array.dtype == np.uint8

    # Another reader sees the same voxels at the same places.
    mine, theirs = SimpleITK.ReadImage(str(files.labels)), SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(mine.GetDirection(), theirs.GetDirection())
    np.testing.assert_array_equal(mine.GetOrigin(), theirs.GetOrigin())
    np.testing.assert_array_equal(mine.GetSpacing(), theirs.GetSpacing())
    bright = SimpleITK.GetArrayFromImage(theirs) > 150
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mine) == 2, bright)


@pytest.mark.usefixtures("no_picture")
def test_json_measures_in_the_terms_of_the_file(one: Path, tmp_path: Path) -> None:
    predict_files(box_predictor(), [one], tmp_path / "out")
    files = Files.of(tmp_path / "out", "case-7", masks=True)
    content = read_json(files.json)
    lesions = read_labels(files.lesions)
    image = SimpleITK.ReadImage(str(one))
    assert content["threshold"] == 0.5
    assert content["organ"]["name"] == "liver"
    assert content["model"]["sha256"] == "f" * 64
    assert len(content["settings"]["input"]) == 64
    assert {"python", "torch", "volattn"} <= set(content["versions"])
    assert [lesion["id"] for lesion in content["lesions"]] == [1, 2]
    for lesion in content["lesions"]:
        box = lesion["box_voxels"]
        assert box["axes"] == "kji"
        where = np.argwhere(lesions.array == lesion["id"])
        assert box["start"] == where.min(axis=0).tolist()
        assert box["stop"] == (where.max(axis=0) + 1).tolist()
        corners = [
            image.TransformContinuousIndexToPhysicalPoint([end - 0.5 for end in reversed(ends)])
            for ends in (box["start"], box["stop"])
        ]
        np.testing.assert_allclose(np.min(corners, axis=0), lesion["box_lps_mm"]["min"], atol=1e-3)
        np.testing.assert_allclose(np.max(corners, axis=0), lesion["box_lps_mm"]["max"], atol=1e-3)
        assert lesion["volume_ml"] == pytest.approx(len(where) * 1.5 * 0.8 * 0.8 / 1000, rel=1e-4)
        key = lesion["key_slice"]["file"]
        assert (lesions.array.take(key["index"], axis="kji".index(key["axis"])) == lesion["id"]).any()
        bag = lesion["best_detection"]["bag"]
        assert sum(bag["channel"]) == pytest.approx(1)
        assert sum(bag["spatial"]) == pytest.approx(1)
        assert len(bag["model_slices"]) == len(bag["file_slices"]) == 3
    scores = [lesion["score"] for lesion in content["lesions"]]
    assert all(0.6 < score < 1 for score in scores)


def test_nothing_of_the_patient_but_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    write_volume(path, ct())
    content = bytearray(path.read_bytes())
    content[148:157] = b"DOE, JANE"  # the header's free text
    path.write_bytes(bytes(content))
    predict_files(box_predictor(), [path], tmp_path / "out")
    files = Files.of(tmp_path / "out", "a", masks=True)
    written = [gzip.decompress(files.labels.read_bytes()), gzip.decompress(files.lesions.read_bytes())]
    written += [files.json.read_bytes(), files.picture.read_bytes()]
    assert not any(b"DOE" in content for content in written)
    assert str(tmp_path) not in files.json.read_text()


@pytest.mark.usefixtures("no_picture")
def test_one_bad_case_does_not_stop_the_others(one: Path, tmp_path: Path) -> None:
    bad = tmp_path / "in" / "bad.nii.gz"
    bad.write_bytes(one.read_bytes()[:200])
    missing = tmp_path / "in" / "missing.nii"
    found = predict_files(box_predictor(), [bad, missing, one], tmp_path / "out")
    assert [outcome.status for outcome in found] == ["failed", "failed", "predicted"]
    for outcome, path in zip(found, (bad, missing), strict=False):
        assert str(path) in outcome.message
        assert "\n" not in outcome.message
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        LOCK,
        *(path.name for path in Files.of(tmp_path / "out", "case-7", masks=True)),
    }


def test_a_fault_of_ours_names_the_case_and_writes_nothing(one: Path, tmp_path: Path) -> None:
    predictor = box_predictor()

    def broken(images: object) -> None:
        raise RuntimeError("boom")

    predictor.model.encode = broken  # type: ignore[method-assign, assignment]
    (outcome,) = predict_files(predictor, [one], tmp_path / "out")
    assert outcome.status == "failed"
    assert outcome.message == f"{one}: cannot be processed (RuntimeError: boom); check the file, or leave it out"
    assert isinstance(outcome.error, RuntimeError)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_picture")
class TestResume:
    def run(self, one: Path, predictor: Predictor | None = None, **options: Any) -> str:
        out = one.parents[1] / "out"
        (outcome,) = predict_files(predictor or box_predictor(), [one], out, resume=True, **options)
        assert outcome.lesions is not None
        return outcome.status

    def test_skips_what_is_finished(self, one: Path) -> None:
        assert self.run(one) == "predicted"
        files = Files.of(one.parents[1] / "out", "case-7", masks=True)
        before = [path.stat().st_mtime_ns for path in files]
        assert self.run(one) == "skipped"
        assert [path.stat().st_mtime_ns for path in files] == before

    def test_not_with_other_settings_model_or_input(self, one: Path) -> None:
        self.run(one)
        assert self.run(one, threshold=0.55) == "predicted"
        assert self.run(one) == "predicted"
        other = box_predictor()
        other.fingerprint = "0" * 64
        assert self.run(one, other) == "predicted"
        write_volume(one, ct())
        assert self.run(one, other) == "predicted"
        assert self.run(one, other) == "skipped"

    def test_not_with_another_refinement(self, one: Path) -> None:
        plain, refined = box_predictor(1, name="cascade"), box_predictor(1, name="cascade")
        refined.folder = refined.folder.refined("crf")
        assert self.run(one, plain) == "predicted"
        assert self.run(one, refined) == "predicted"
        assert self.run(one, refined) == "skipped"
        content = read_json(Files.of(one.parents[1] / "out", "case-7", masks=True).json)
        assert content["settings"]["refinement"]["radius"] == CrfConfig().radius

    @pytest.mark.parametrize("place", range(4))
    def test_not_if_a_file_is_gone(self, one: Path, place: int) -> None:
        self.run(one)
        Files.of(one.parents[1] / "out", "case-7", masks=True)[place].unlink()
        assert self.run(one) == "predicted"

    def test_not_after_a_kill_between_the_files(self, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The old JSON must not vouch for the new label map."""
        self.run(one)
        with monkeypatch.context() as patch:
            patch.setattr("volattn.inference.prediction.write_json", interrupt)
            with pytest.raises(KeyboardInterrupt):
                self.run(one, threshold=0.99)
        assert self.run(one) == "predicted"

    def test_a_damaged_json_is_done_again(self, one: Path) -> None:
        self.run(one)
        Files.of(one.parents[1] / "out", "case-7", masks=True).json.write_text("{")
        assert self.run(one) == "predicted"


def test_results_do_not_depend_on_the_run(one: Path, tmp_path: Path) -> None:
    for out in ("first", "second"):
        predict_files(box_predictor(batch=1 + len(out) % 2), [one], tmp_path / out)
    for first, second in zip(
        Files.of(tmp_path / "first", "case-7", masks=True),
        Files.of(tmp_path / "second", "case-7", masks=True),
        strict=True,
    ):
        assert first.read_bytes() == second.read_bytes()


class TestInputs:
    def test_folders_hold_cts_not_label_maps(self, tmp_path: Path) -> None:
        for name in ("volume-10.nii.gz", "volume-2.nii", "segmentation-2.nii", "x_lesions.nii.gz", ".y.nii", "z.txt"):
            (tmp_path / name).touch()
        found = find_inputs([tmp_path, tmp_path / "volume-2.nii"])
        assert [case.image.name for case in found.cases] == ["volume-2.nii", "volume-10.nii.gz"]

    def test_batches_of_lits(self, write_lits_case: Any, tmp_path: Path) -> None:
        write_lits_case(3, tmp_path / "set" / "batch 1")
        write_lits_case(1, tmp_path / "set" / "batch 2")
        assert [case.image.name for case in find_inputs([tmp_path / "set"]).cases] == [
            "volume-1.nii.gz",
            "volume-3.nii.gz",
        ]

    def test_two_of_one_name(self, tmp_path: Path) -> None:
        paths = [tmp_path / "a" / "ct.nii", tmp_path / "b" / "ct.nii.gz"]
        with pytest.raises(ValueError, match=r"a/ct\.nii and .*b/ct\.nii\.gz would both"):
            find_inputs(paths)

    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="nothing to predict"):
            find_inputs([])
        with pytest.raises(ValueError, match="holds no CT"):
            find_inputs([tmp_path])

    def test_an_input_is_never_overwritten(self, one: Path) -> None:
        before = one.read_bytes()
        with pytest.raises(ValueError, match="is the CT itself"):
            predict_files(box_predictor(), [one], one.parent)
        assert one.read_bytes() == before

    def test_nor_a_reference(self, one: Path, tmp_path: Path) -> None:
        write_labels(tmp_path / "labels" / "case-7.nii.gz", np.zeros_like(ct().array, np.uint8), ct())
        with pytest.raises(ValueError, match="is the reference itself"):
            predict_files(box_predictor(), [one], tmp_path / "labels", reference=tmp_path / "labels")

    def test_nor_one_result_by_another(self, tmp_path: Path) -> None:
        inputs = [tmp_path / "a.nii", tmp_path / "a_lesions.nii"]
        with pytest.raises(ValueError, match="would both be written as a_lesions"):
            predict_files(box_predictor(), inputs, tmp_path / "out")

    def test_the_output_is_a_folder(self, one: Path) -> None:
        with pytest.raises(ValueError, match="is a file"):
            predict_files(box_predictor(), [one], one)


class TestReferences:
    def test_by_name_and_by_number(self, tmp_path: Path) -> None:
        for name in ("liver_044.nii.gz", "liver_7.nii", "same.nii"):
            (tmp_path / name).touch()
        references = References.open(tmp_path, ORGAN_AND_LESION)
        for image, wanted in (
            ("volume-44.nii", "liver_044.nii.gz"),
            ("liver_7_0000.nii.gz", "liver_7.nii"),
            ("same.nii.gz", "same.nii"),
            ("volume-45.nii", None),
            ("other.nii", None),
        ):
            found = references.find(Case(volume_name(image), Path("elsewhere") / image, None))
            assert (found and found.name) == wanted

    def test_lits_beside_the_cts(self, write_lits_case: Any) -> None:
        image, labels = write_lits_case(44)
        assert References.open(image.parent, ORGAN_AND_LESION).find(Case("volume-44", image, None)) == labels

    def test_ambiguous_numbers(self, tmp_path: Path) -> None:
        for name in ("a-1.nii", "b-1.nii"):
            (tmp_path / name).touch()
        with pytest.raises(ValueError, match="both have the number"):
            References.open(tmp_path, ORGAN_AND_LESION).find(Case("c-1", Path("c-1.nii"), None))

    def test_not_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="is not a folder"):
            References.open(tmp_path / "none", ORGAN_AND_LESION)
        with pytest.raises(ValueError, match="holds no label map"):
            References.open(tmp_path, ORGAN_AND_LESION)

    @pytest.mark.usefixtures("no_picture")
    @pytest.mark.parametrize("fault", ["grid", "labels", "missing", "damaged", "vanished", "a reader's fault"])
    def test_a_bad_reference_costs_the_comparison_only(
        self, one: Path, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume = read_volume(one)
        labels = np.zeros(volume.array.shape, np.uint8)
        labels.flat[0] = 9 if fault == "labels" else 1
        like = ct() if fault == "grid" else volume
        labels = np.zeros(SHAPE, np.uint8) if fault == "grid" else labels
        path = tmp_path / "refs" / f"ref-{8 if fault == 'missing' else 7}.nii.gz"
        write_labels(path, labels, like)
        if fault == "damaged":
            path.write_bytes(path.read_bytes()[:60])
        elif fault == "vanished":
            gone = FileNotFoundError(2, "No such file or directory", str(path))
            monkeypatch.setattr(
                "volattn.inference.results.sha256", lambda read: sha256(read) if read == one else _raise(gone)
            )
        elif fault == "a reader's fault":
            monkeypatch.setattr(References, "read", lambda *_: _raise(KeyError("shape")))
        (outcome,) = predict_files(box_predictor(), [one], tmp_path / "out", reference=tmp_path / "refs")
        assert outcome.status == "predicted"
        (note,) = outcome.notes
        said = {
            "grid": "grid",
            "labels": "label 9",
            "missing": "no reference",
            "damaged": "truncated",
            "vanished": "No such file",
            "a reader's fault": "internal error",
        }
        assert said[fault] in note
        assert str(path if fault != "missing" else path.parent) in note
        assert "\n" not in outcome.message
        content = read_json(tmp_path / "out" / "case-7.json")
        assert content["reference"] is None
        assert content["notes"] == [note]

    def test_a_good_reference_changes_the_picture(self, one: Path, tmp_path: Path) -> None:
        volume = read_volume(one)
        labels = volume.geometry.turn().undo(truth())
        write_labels(tmp_path / "refs" / "segmentation-7.nii.gz", labels, volume)
        predict_files(box_predictor(), [one], tmp_path / "plain")
        predict_files(box_predictor(), [one], tmp_path / "out", reference=tmp_path / "refs")
        content = read_json(tmp_path / "out" / "case-7.json")
        assert content["reference"] == "segmentation-7.nii.gz"
        pictures = [(tmp_path / folder / "case-7.png").read_bytes() for folder in ("plain", "out")]
        assert pictures[0] != pictures[1]


@pytest.mark.usefixtures("no_picture")
class TestSeenCases:
    PROVENANCE = Provenance(
        recipe="r",
        dataset="d",
        fingerprint="0",
        cases=("volume-1", "volume-2"),
        validation=("volume-3",),
        sources={"volume-1": "a" * 64},
    )

    @pytest.mark.parametrize(
        ("name", "content", "wanted"),
        [
            ("renamed", "a", ("training", "volume-1", "content")),
            ("volume-2", "b", ("training", "volume-2", "name")),
            ("volume-1", "b", None),  # another file of that name
            ("volume-3", "b", ("validation", "volume-3", "name")),
            ("volume-4", "b", None),
            (None, "b", None),
        ],
    )
    def test_by_content_then_by_name(self, name: str | None, content: str, wanted: tuple[str, str, str] | None) -> None:
        found = self.PROVENANCE.seen(content * 64, name)
        assert (found and (found.subset, found.case, found.known_by)) == wanted

    def test_the_outcome_and_the_json_say_so(self, one: Path, tmp_path: Path) -> None:
        (outcome,) = predict_files(box_predictor(cases=("case-7",)), [one], tmp_path / "out")
        assert "was trained on this case" in outcome.message
        content = read_json(tmp_path / "out" / "case-7.json")
        assert content["seen_in_training"] == {"subset": "training", "case": "case-7", "known_by": "name"}
        (again,) = predict_files(box_predictor(cases=("case-7",)), [one], tmp_path / "out", resume=True)
        assert again.status == "skipped"
        assert again.notes == outcome.notes

    def test_without_provenance_nothing_is_known(self, one: Path, tmp_path: Path) -> None:
        predictor = box_predictor(cases=("case-7",))
        predictor.folder = predictor.folder.model_copy(update={"provenance": None})
        (outcome,) = predict_files(predictor, [one], tmp_path / "out")
        assert outcome.notes == ()
        content = read_json(tmp_path / "out" / "case-7.json")
        assert (content["seen_in_training"], content["model"]["recipe"]) == (None, None)


def test_a_model_of_phantoms_warns_in_the_json_and_on_the_picture(one: Path, tmp_path: Path) -> None:
    pictures = []
    for phantoms_only in (False, True):
        predictor = box_predictor()
        predictor.folder = predictor.folder.model_copy(update={"phantoms_only": phantoms_only})
        out = tmp_path / str(phantoms_only)
        (outcome,) = predict_files(predictor, [one], out)
        assert outcome.notes == ()
        content = read_json(out / "case-7.json")
        assert content["model"]["phantoms_only"] == phantoms_only
        assert any("not for patients" in note for note in content["notes"]) == phantoms_only
        pictures.append((out / "case-7.png").read_bytes())
        (again,) = predict_files(predictor, [one], out, resume=True)
        assert (again.status, again.notes) == ("skipped", ())
    assert pictures[0] != pictures[1]


def test_a_prediction_saves_what_the_command_writes(one: Path, tmp_path: Path) -> None:
    predict_files(box_predictor(), [one], tmp_path / "command")
    expected = Files.of(tmp_path / "command", "case-7", masks=True)
    prediction = box_predictor().predict(one)
    files = prediction.save(tmp_path / "saved", picture=True)
    assert files == Files.of(tmp_path / "saved", "case-7", masks=True)
    for ours, theirs in zip(files[1:], expected[1:], strict=True):
        assert ours is not None
        assert theirs is not None
        assert ours.read_bytes() == theirs.read_bytes()
    of_the_command = ("fingerprint", "file", "settings")
    first, second = (read_json(path) for path in (files.json, expected.json))
    assert {key: value for key, value in first.items() if key not in of_the_command} == {
        key: value for key, value in second.items() if key not in of_the_command
    }
    prediction.save(tmp_path / "saved")
    assert not files.picture.exists()
    (tmp_path / "saved" / "mine.json").write_text("{}")
    with pytest.raises(ValueError, match="was not written by volattn"):
        prediction.save(tmp_path / "saved", name="mine")


@pytest.mark.usefixtures("no_picture")
def test_progress_counts_cases_and_slices(one: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    predict_files(box_predictor(), [one], tmp_path / "out", progress=lambda *step: seen.append(step))
    assert seen[0] == ("1/1 case-7", 1, SHAPE[0])
    assert seen[-1] == ("1/1 case-7", SHAPE[0], SHAPE[0])
    assert len(LESION_BOXES) == 2


@pytest.mark.parametrize(
    ("files", "channels", "names"),
    [
        (("a_1_0000", "a_1_0001", "a_2_0000", "a_2_0001"), None, {"a_1": "a_1_0000", "a_2": "a_2_0000"}),
        (("anna_0000", "anna_0001", "bert_0000", "bert_0001"), None, {"anna": "anna_0000", "bert": "bert_0000"}),
        (("a_1_0000", "a_1_0001", "b"), {"0": "PET", "1": "CT"}, {"a_1": "a_1_0001", "b": "b"}),
        (("a_1_0000", "a_2_0001"), {"0": "PET", "1": "CT"}, {"a_2": "a_2_0001"}),
        (("a_1_0000", "a_2_0000"), {"0": "CT"}, {"a_1_0000": "a_1_0000", "a_2_0000": "a_2_0000"}),
        (("ct_0000", "ct_0001"), None, {"ct_0000": "ct_0000", "ct_0001": "ct_0001"}),
        (("liver_0001", "liver_0002"), None, {"liver_0001": "liver_0001", "liver_0002": "liver_0002"}),
    ],
)
def test_channels_of_a_case_are_one_ct(
    tmp_path: Path, files: tuple[str, ...], channels: dict[str, str] | None, names: dict[str, str]
) -> None:
    folder = tmp_path / "imagesTs"
    folder.mkdir()
    for name in files:
        (folder / f"{name}.nii.gz").touch()
    if channels is not None:
        description = {"channel_names": channels, "labels": {"background": 0, "tumour": 1}}
        (tmp_path / "dataset.json").write_text(json.dumps(description))
    for given in ([folder], sorted(folder.iterdir())):
        found = find_inputs(given)
        assert {case.name: volume_name(case.image) for case in found.cases} == names
        assert len(found.cases) + len(found.left_out) == len(files)
        assert bool(found.notes) == bool(found.left_out)


def test_channels_lie_on_one_grid(tmp_path: Path) -> None:
    write_volume(tmp_path / "a_1_0000.nii.gz", ct())
    write_volume(tmp_path / "a_1_0001.nii.gz", ct(tilt=0.4))
    assert [case.name for case in find_inputs([tmp_path]).cases] == ["a_1_0000", "a_1_0001"]
