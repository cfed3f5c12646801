"""Real exports: each is examined, mended, and then predicts as before, with any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import eyas
from eyas.doctor.check import examine
from eyas.doctor.reading import read_model
from eyas.doctor.repair import repair

# File → its family.
MODELS = {
    "mobilefacenet": "arcface",
    "nanodet_g": "nanodet",
    "nanodet_m_416": "nanodet",
    "person_reid_0287": "reid",
    "retinaface_mnet025": "retinaface",
    "scrfd_500m_kps": "scrfd",
    "yolov5n_face": "yolov5",
    "yolov8n-pose": "yolov8_pose",
    "yolov8n": "yolov8",
    "yolox_nano": "yolox",
}


@pytest.mark.parametrize("name", MODELS)
def test_a_real_export_is_examined(name: str, real_data: Path, caplog: pytest.LogCaptureFixture):
    path = real_data / "models" / f"{name}.onnx"
    findings = examine(read_model(path), path)
    assert not caplog.records
    assert "error" not in {f.severity for f in findings}
    assert {f.rule for f in findings if f.severity == "warning"} <= {"D101", "D112", "D201", "D204", "D205"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_mended_export_predicts_as_before(name: str, real_data: Path, tmp_path: Path):
    path, out = real_data / "models" / f"{name}.onnx", tmp_path / f"{name}.onnx"
    repaired = repair(read_model(path), path)
    assert {f.severity for f in repaired.left} <= {"note"}
    assert not repaired.undone
    onnx.save(repaired.model, out)
    assert onnx.load(out).graph.input[0].type.tensor_type.shape.dim[0].dim_param, "the batch is free"
    pictures = sorted((real_data / "data" / "images").glob("*.*"))
    assert len(pictures) == 7
    options = {"family": MODELS[name], "backend": "onnxruntime", "precision": "fp32"}
    with eyas.load(path, **options) as before:
        wanted = [fields(result) for result in before.predict(pictures)]
    for batch in (1, 2, 7):
        with eyas.load(out, batch=batch, **options) as after:
            for want, result in zip(wanted, after.predict(pictures), strict=True):
                got = fields(result)
                assert want.keys() == got.keys()
                for key, values in want.items():
                    np.testing.assert_allclose(got[key], values, rtol=1e-3, atol=2e-2, err_msg=f"{key}, batch {batch}")


def fields(result: object) -> dict[str, np.ndarray]:
    """The arrays of a result, whatever its kind."""
    found = {k: getattr(result, k, None) for k in ("xyxy", "confidence", "class_id", "keypoints", "vector")}
    arrays = {k: np.asarray(v) for k, v in found.items() if v is not None}
    assert arrays
    return arrays
