"""One CT in, one label map out: on the voxel, in any orientation, in little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from boxes_in_ct import LESION_BOXES, SHAPE, box_predictor, ct, truth, turns
from hypothesis import given, settings
from hypothesis import strategies as st
from small_detectors import CLASSES, made, small_config

from volattn.checkpoints import ModelFolder, save_folder
from volattn.inference.predict import Predictor, find_device, load
from volattn.inference.stream import SliceReader
from volattn.io.readers import write_volume
from volattn.models.precision import Precision
from volattn.phantoms import make_phantom
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import PreparedSlices
from volattn.provenance import Provenance
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume


@pytest.mark.parametrize(("tilt", "every"), [(0.0, 1), (0.3, 7)])
def test_every_orientation_gives_the_same_labels_in_its_own_axes(tilt: float, every: int) -> None:
    predictor = box_predictor()
    for turn in list(turns())[::every]:
        volume = ct(turn, tilt)
        found = predictor.predict(volume)
        np.testing.assert_array_equal(turn.apply(found.labels), truth())
        assert found.labels.shape == found.lesion_map.shape == volume.array.shape
        assert found.labels.dtype == np.uint8
        assert len(found.lesions) == 2
        for record in found.lesions:
            start, stop = record.box[:3], record.box[3:]
            inside = tuple(slice(*ends) for ends in zip(start, stop, strict=True))
            assert (found.lesion_map[inside] == record.id).all()
            assert np.count_nonzero(found.lesion_map == record.id) == np.prod(np.subtract(stop, start))
            axis = "kji".index(record.file_axis)
            assert (found.lesion_map.take(record.file_slice, axis=axis) == record.id).any()


def test_records_say_where_and_how_large() -> None:
    volume = ct()
    found = box_predictor().predict(volume)
    assert found.organ is not None
    assert found.organ.name == CLASSES[0]
    assert found.organ.volume_ml == pytest.approx(np.count_nonzero(truth()) * 1.5 * 0.8 * 0.8 / 1000)
    for record, box in zip(found.lesions, LESION_BOXES, strict=True):
        assert record.box == box
        sides = np.subtract(box[3:], box[:3]) * volume.geometry.spacing
        assert record.volume_ml == pytest.approx(np.prod(sides) / 1000)
        assert record.long_axis_mm == pytest.approx(np.hypot(sides[1], sides[2]))
        z0, y0, x0, z1, y1, x1 = box
        wanted = (
            *(-31 + (x0 - 0.5) * 0.8, -87.5 + (y0 - 0.5) * 0.8, 412 + (z0 - 0.5) * 1.5),
            *(-31 + (x1 - 0.5) * 0.8, -87.5 + (y1 - 0.5) * 0.8, 412 + (z1 - 0.5) * 1.5),
        )
        assert record.box_lps == pytest.approx(wanted)
        assert record.bag is not None
        assert record.bag.model_slices[1] == record.model_slice
        assert record.bag.channel == pytest.approx((0.5, 0.25, 0.25))
        assert record.bag.spatial == pytest.approx((0.25, 0.25, 0.5))


def test_bag_slices_are_those_of_the_file() -> None:
    """3 mm slices counted from the head: the bag's centres, 4.5 mm apart, named by the nearest slice."""
    turn = next(turn for turn in turns() if turn.axes == (0, 1, 2) and turn.flips == (True, False, False))
    found = box_predictor().predict(ct(turn, spacing=(3.0, 0.8, 0.8)))
    np.testing.assert_array_equal(turn.apply(found.labels), truth())
    for record in found.lesions:
        assert record.bag is not None
        canonical = np.array(record.bag.model_slices) * 1.5 / 3.0
        nearest = SHAPE[0] - 1 - np.array(record.bag.file_slices)
        assert np.abs(nearest - canonical).max() <= 0.5
        assert record.bag.offsets_mm == pytest.approx((np.array(record.bag.model_slices) - record.model_slice) * 1.5)


def test_threshold_can_be_given_and_batch_changes_nothing() -> None:
    volume = ct()
    assert box_predictor().predict(volume, threshold=0.99).lesions == ()
    assert box_predictor().predict(volume, threshold=0.0).threshold == 0.0
    one, many = box_predictor(5).predict(volume), box_predictor(5, batch=4).predict(volume)
    np.testing.assert_array_equal(one.labels, many.labels)
    assert one.lesions == many.lesions
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            box_predictor().predict(volume, threshold=wrong)


@pytest.mark.parametrize("name", ["mask_rcnn", "faster_rcnn"])
def test_auxiliary_classes_are_listed_when_asked_for_and_change_nothing(name: str) -> None:
    def predictor(*, asked: bool) -> Predictor:
        made = box_predictor(name=name)
        model: Any = made.model
        model.config = model.config.model_copy(update={"auxiliary": ("cyst", "vessel")})
        detect = model._detect

        def with_a_vessel(image: torch.Tensor) -> dict[str, torch.Tensor]:
            found = detect(image)
            vessel = {
                "boxes": torch.tensor([[2.0, 3, 9, 8]]),
                "labels": torch.tensor([4]),
                "scores": torch.tensor([0.8]),
            }
            if "masks" in found:
                vessel["masks"] = torch.ones(1, 1, 28, 28)
            return {key: torch.cat([found[key], value]) for key, value in vessel.items()}

        model._detect = with_a_vessel
        made.report_auxiliary = asked
        return made

    plain, silent, asked = (
        box_predictor(name=name).predict(ct()),
        *(predictor(asked=one).predict(ct()) for one in (False, True)),
    )
    for other in (silent, asked):
        np.testing.assert_array_equal(other.labels, plain.labels)
        assert other.lesions == plain.lesions
    assert silent.auxiliary == {}
    assert "auxiliary" not in silent.as_json()
    assert asked.auxiliary["cyst"] == ()
    (vessel,) = asked.auxiliary["vessel"]
    assert vessel.score == pytest.approx(0.8)
    assert vessel.box[0::3] == (0, asked.labels.shape[0]), "linked through all slices"
    assert asked.as_json()["auxiliary"]["vessel"][0]["box_voxels"]["start"] == list(vessel.box[:3])


def test_each_slice_is_encoded_once() -> None:
    predictor = box_predictor(9)
    seen: list[tuple[str, int, int]] = []
    predictor.predict(ct(), progress=lambda *step: seen.append(step))
    assert predictor.model.encoded == SHAPE[0]
    assert seen == [("boxes", done, SHAPE[0]) for done in range(1, SHAPE[0] + 1)]


def test_nan_in_an_array_is_refused() -> None:
    array = ct().array.astype(np.float32)
    array[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of its"):
        box_predictor().predict(Volume(array, ct().geometry, "spoiled"))


@given(
    depth=st.integers(1, 9),
    spacing=st.sampled_from([0.7, 1.5, 2.5, 5.0]),
    step=st.sampled_from([None, 1.5, 2.0]),
    size=st.sampled_from([32, 40, 64]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_reader_gives_the_prepared_slices_bit_for_bit(
    depth: int, spacing: float, step: float | None, size: int, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(-1000, 1000, (depth, 41, 60)).astype(np.int16)
    volume = Volume(array[:, ::-1], Geometry.aligned(array.shape, (spacing, 0.7, 0.7)).turned(ct().geometry.turn()))
    plan = Plan(z_spacing=step, size=size)
    prepared, reader = np.stack(list(PreparedSlices(volume, plan))), SliceReader(volume, plan)
    assert reader.depth == len(prepared)
    np.testing.assert_array_equal(np.stack([reader.prepared[z] for z in range(reader.depth)]), prepared)


@pytest.mark.parametrize(("dtype", "single_organ"), [(np.int16, False), (np.float32, True)])
def test_memory_grows_by_four_bytes_a_voxel_beside_the_volume(dtype: type, single_organ: bool) -> None:
    """5 mm slices, which preparing would make 3.3 times as many; half a byte is left for their detections."""
    predictor = box_predictor()
    changes = {"plan": Plan(size=96), "single_organ": single_organ}
    predictor.folder = predictor.folder.model_copy(update=changes)
    peaks = []
    for depth in (30, 90):
        array = np.full((depth, 96, 96), -1000, dtype)
        array[:, 10:72, 10:72] = 100
        array[::6, 20:42, 30:52] = 200
        volume = Volume(array, Geometry.aligned(array.shape, (5.0, 0.8, 0.8)))
        tracemalloc.start()
        found = predictor.predict(volume)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found.lesions) == depth // 6
    assert peaks[1] - peaks[0] <= 4.5 * 60 * 96 * 96


def test_a_run_folder_predicts_from_a_file(tmp_path: Path) -> None:
    config = small_config(5)
    model = made(config, dtype=torch.float32)
    folder = ModelFolder(
        model=config,
        plan=Plan(z_spacing=2.0, size=64),
        classes=CLASSES,
        threshold=0.1,
        provenance=Provenance(recipe="small", dataset="made", fingerprint="0"),
    )
    save_folder(tmp_path / "run", model, folder)
    volume = ct()
    write_volume(tmp_path / "boxes.nii.gz", volume)
    predictor = load(tmp_path / "run", device="cpu")
    assert isinstance(predictor, Predictor)
    assert predictor.fingerprint is not None
    read = predictor.predict(tmp_path / "boxes.nii.gz")
    direct = predictor.predict(volume)
    np.testing.assert_array_equal(read.labels, direct.labels)
    assert read.threshold == 0.1
    assert read.volume.name == "boxes"
    with pytest.raises(ValueError, match="no such model folder"):
        load(tmp_path / "nothing")


def test_devices() -> None:
    assert find_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="unknown"):
        find_device("potato")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="not there"):
            find_device("cuda")
        assert find_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="batch"):
        box_predictor(batch=0)


@pytest.mark.slow
def test_batch_and_threads_change_scores_by_rounding_only(tmp_path: Path) -> None:
    """What docs/explanation/robustness.md promises, held by the weights of the package on a phantom."""
    phantom = make_phantom(3, 1, 128)
    volume = Volume(phantom.image[20:50], Geometry.aligned((30, 128, 128), phantom.spacing), "phantom")
    threads = torch.get_num_threads()
    found = []
    try:
        for batch, number in ((1, 1), (4, 1), (1, 2), (4, 2)):
            torch.set_num_threads(number)
            found.append(load("demo", device="cpu", batch=batch).predict(volume, 0.02))
    finally:
        torch.set_num_threads(threads)
    first, *others = found
    assert first.lesions, "without a lesion nothing is compared"
    for other in others:
        np.testing.assert_array_equal(other.labels, first.labels)
        np.testing.assert_array_equal(other.lesion_map, first.lesion_map)
        scores = [[record.score for record in one.lesions] for one in (first, other)]
        np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-5)


def test_a_repr_is_one_short_line() -> None:
    predictor = box_predictor()
    assert repr(predictor) == "Predictor(mask_rcnn, bag of 3, finds liver and lesion as masks, on cpu)"
    prediction = predictor.predict(ct())
    assert repr(prediction).startswith("Prediction(boxes: 2 lesions, liver ")
    assert repr(prediction.volume) == "Volume(boxes: int16 12 x 20 x 24 voxels (z, y, x), 1.5 x 0.8 x 0.8 mm)"
    assert "array" not in repr(prediction)


def test_an_array_alone_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"Volume\(array, Geometry.aligned"):
        box_predictor().predict(ct().array)  # type: ignore[arg-type]


def test_reduced_precision_finds_the_same_on_a_cpu() -> None:
    phantom = make_phantom(3, 1, 128)
    volume = Volume(phantom.image[36:37], Geometry.aligned((1, 128, 128), phantom.spacing), "phantom")
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    full, *others = (load("demo", device="cpu", precision=one).predict(volume, 0.02) for one in precisions)
    assert full.organ is not None
    for ours in others:
        assert ours.organ is not None
        assert ours.organ.volume_ml == pytest.approx(full.organ.volume_ml, rel=0.05)
        assert [lesion.score for lesion in ours.lesions] != [lesion.score for lesion in full.lesions]
