"""Real weights on real pictures: an independent decode, two runtimes that agree, precision that costs nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import oracles
import pytest
from numpy.typing import NDArray

import eyas
from eyas.build import open_network

DETECTORS = ("yolov8n", "yolox_nano", "nanodet_g", "nanodet_m_416")
FAMILIES = {"yolov8n": "yolov8", "yolox_nano": "yolox"}


def matched(a: NDArray[np.float32], b: NDArray[np.float32]) -> list[tuple[float, float]]:
    """(IoU, |Δscore|) of each row [x1 y1 x2 y2 score class] of a with its best unused partner of that class in b."""
    pairs, free = [], list(range(len(b)))
    for row in a:
        rivals = [j for j in free if b[j, 5] == row[5]]
        ious = [iou(row[:4], b[j, :4]) for j in rivals]
        if not ious:
            return [(0.0, 1.0)]
        j = rivals[int(np.argmax(ious))]
        free.remove(j)
        pairs.append((max(ious), abs(float(row[4] - b[j, 4]))))
    return pairs


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    union = sum(areas) - sides.prod()
    return float(sides.prod() / union) if union > 0 else 1.0


def rows(detections: eyas.Detections) -> NDArray[np.float32]:
    return np.column_stack([detections.xyxy, detections.confidence, detections.class_id]).astype(np.float32)


def raw_session(model: onnx.ModelProto):
    ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_bus_agrees_with_a_plain_numpy_decode_of_the_raw_network(real_data: Path, name: str, backend: str):
    path, picture = real_data / "models" / f"{name}.onnx", real_data / "data" / "images" / "bus.jpg"
    with eyas.load(path, backend=backend, precision="fp32") as model:
        found = model.predict(picture)
        want = oracles.predict(
            raw_session(onnx.load(path)),
            cv2.imread(str(picture)),
            FAMILIES.get(name, "nanodet"),
            model.card.input_size[0],
            0.25,
            model.card.iou,
        )
    assert found.class_name.count("bus") == 1
    assert found.class_name.count("person") >= 3
    np.testing.assert_array_equal(found.class_id, want[:, 5])
    np.testing.assert_allclose(found.xyxy, want[:, :4], atol=0.5)
    np.testing.assert_allclose(found.confidence, want[:, 4], atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("picture", "faces"), [("many_face", 6), ("biubug6_faces", 1), ("zidane", 0)])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_weak_face_weights_agree_with_a_plain_numpy_decode(real_data: Path, picture: str, faces: int, backend: str):
    path = real_data / "models" / "yolov5n_face.onnx"
    file = next((real_data / "data" / "images").glob(f"{picture}.*"))
    with eyas.load(path, backend=backend, precision="fp32") as model:
        found = model.predict(file)
    want = oracles.predict(raw_session(onnx.load(path)), cv2.imread(str(file)), "yolov5", 640, 0.25, 0.45)
    assert len(found) == len(want) == faces
    np.testing.assert_allclose(found.xyxy, want[:, :4], atol=0.5)
    np.testing.assert_allclose(found.confidence, want[:, 4], atol=2e-3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "least"), [*((name, 200) for name in DETECTORS), ("yolov5n_face", 3)])
def test_runtimes_agree_on_every_picture(real_data: Path, name: str, least: int):
    path, pictures = real_data / "models" / f"{name}.onnx", [str(real_data / "data" / "coco_val" / "images")]
    # Scores just above the threshold may fall on its other side elsewhere: such rows need a partner in the looser run.
    strict, loose = [], []
    for backend in ("openvino", "onnxruntime"):
        with eyas.load(path, backend=backend, precision="fp32") as model:
            strict.append([rows(d) for d in model.predict(pictures)])
            loose.append([rows(d) for d in model.predict(pictures, conf=0.25 - 2e-3)])
    assert len(strict[0]) == 60
    assert sum(map(len, strict[0])) >= least
    for mine, theirs in ((strict[0], loose[1]), (strict[1], loose[0])):
        for a, b in zip(mine, theirs, strict=True):
            for overlap, difference in matched(a, b):
                assert overlap > 0.99
                assert difference < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n", "nanodet_g"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_batch_gives_what_single_pictures_give(real_data: Path, name: str, backend: str):
    files = sorted((real_data / "data" / "coco_val" / "images").glob("*.jpg"))[:7]
    path = real_data / "models" / f"{name}.onnx"
    with (
        eyas.load(path, backend=backend, precision="fp32") as one,
        eyas.load(path, backend=backend, precision="fp32", batch=3) as three,
    ):
        for a, b in zip(one.predict(files), three.predict(files), strict=True):
            np.testing.assert_allclose(rows(a), rows(b), atol=2e-2)


def test_shared_names_are_what_the_networks_say(real_data: Path):
    assert open_network(real_data / "models" / "yolov8n.onnx").card.names[:3] == ("person", "bicycle", "car")
    assert open_network(real_data / "models" / "yolov8n-pose.onnx").card.names == ("person",)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_network_exported_for_one_picture_runs_batches(real_data: Path, backend: str):
    files = sorted((real_data / "data" / "coco_val" / "images").glob("*.jpg"))[:5]
    path = real_data / "models" / "yolox_nano.onnx"
    with (
        eyas.load(path, backend=backend, precision="fp32") as one,
        eyas.load(path, backend=backend, precision="fp32", batch=4) as four,
    ):
        assert four.engine().infer(zeros(four, 4))["count"].shape == (4,)
        for a, b in zip(one.predict(files), four.predict(files), strict=True):
            np.testing.assert_allclose(rows(a), rows(b), atol=2e-2)


def zeros(model: eyas.Model, batch: int) -> dict[str, NDArray]:
    size = model.card.input_size
    return {"images": np.zeros((batch, *size, 3), np.uint8), "thresholds": np.full((batch, 2), 0.5, np.float32)}


@pytest.mark.slow
def test_a_batch_that_cannot_be_freed_is_said_once(
    real_data: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def refuses(model: onnx.ModelProto) -> onnx.ModelProto:
        raise eyas.ModelError("its pictures depend on each other")

    monkeypatch.setattr("eyas.build.free_batch", refuses)
    with eyas.load(real_data / "models" / "yolox_nano.onnx", batch=4) as model:
        assert len(list(model.predict([np.zeros((64, 64, 3), np.uint8)] * 6))) == 6
    assert sum("fixed to 1" in r.message for r in caplog.records) == 1


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_stays_flat_over_ten_thousand_predictions():
    samples = sorted((Path(__file__).parents[1] / "samples").glob("*.jpg"))
    marks = []
    with eyas.load("nanodet", hint="throughput") as model:
        for i, prediction in enumerate(model.stream(str(samples[i % 3]) for i in range(10_000))):
            assert prediction.detections is not None
            assert len(prediction.detections) > 0
            if i % 1000 == 999:
                marks.append(resident_mb())
    assert i == 9_999
    assert max(marks[2:]) - marks[1] < 30, f"resident MB after each thousand: {marks}"
