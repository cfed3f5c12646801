"""The doctor finds each defect of a generated zoo, and that alone; what it mends is equal; the healthy stay as is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import defects
import numpy as np
import onnx
import onnxruntime
import pytest
import zoo
from conftest import BUNDLED
from defects import DEFECTS
from numpy.typing import NDArray

from eyas.doctor.check import examine, rules
from eyas.doctor.reading import read_model
from eyas.doctor.repair import repair
from eyas.doctor.rule import SEVERITIES

SIZE = (32, 32)


def found(path: Path, backend: str | None = None) -> set[str]:
    return {f.rule for f in examine(read_model(path), path, backend)}


def run(path: Path, pictures: NDArray[Any], batch: int) -> list[NDArray[Any]]:
    """The network's outputs on ONNX Runtime, as it runs it by default, `batch` pictures at a time."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    dtype = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8}.get(entry.type, np.float32)
    parts = [
        session.run(None, {entry.name: pictures[i : i + batch].astype(dtype)}) for i in range(0, len(pictures), batch)
    ]
    return [np.concatenate([p[k] for p in parts]).astype(np.float64) for k in range(len(parts[0]))]


# How many pictures a time the broken network can run, where that is not one.
UNITS = {"a_batch_of_four": 4, "four_baked_into_a_reshape": 4}


def test_the_base_is_healthy(tmp_path: Path):
    for opset in (11, 13, 17, 21):
        path = tmp_path / f"{opset}.onnx"
        onnx.save(defects.base(opset=opset), path)
        onnx.checker.check_model(path, full_check=True)
        assert found(path) == set()


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    defect = DEFECTS[name]
    path = defect.make(tmp_path)
    before = path.read_bytes()
    with caplog.at_level(logging.WARNING, "eyas"):
        findings = examine(read_model(path), path, defect.backend)
        repaired = repair(read_model(path), path, defect.backend, strip_nms=defect.strip)
    assert not caplog.records, caplog.text
    assert {f.rule for f in findings} == defect.rules
    for f in findings:
        assert f.severity in SEVERITIES
        assert f.node
        assert f.what
    assert path.read_bytes() == before
    if not defect.mended:
        assert not repaired.done
        assert {f.rule for f in repaired.left} == defect.rules
        return
    assert {d.rule for d in repaired.done} == defect.rules, repaired.undone
    assert {f.rule for f in repaired.left} == set()
    out = tmp_path / "mended.onnx"
    onnx.save(repaired.model, out)
    onnx.checker.check_model(out, full_check=True)
    if name == "names_given_twice":  # ONNX Runtime refuses it; but for the names it is the base
        onnx.save(defects.base(), path)
    if not defect.strip:
        assert_equal(path, out, UNITS.get(name, 1), max(r.tolerance for r in rules() if r.id in defect.rules))


def assert_equal(old: Path, new: Path, unit: int, tolerance: float) -> None:
    """Picture by picture what the broken network gives, whatever the batch: checked without the doctor's own proof."""
    pictures = np.random.default_rng(11).random((4, 3, *SIZE)).astype(np.float16)
    wanted = run(old, pictures, unit)
    assert any(np.ptp(w, axis=0).max() > 0 for w in wanted)  # pictures differ, and so do results
    for batch in (1, 3, 4):
        for a, b in zip(wanted, run(new, pictures, batch), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(b, a, rtol=max(tolerance, 1e-5), atol=max(tolerance, 1e-5))


def test_every_rule_has_a_defect():
    assert {rule for d in DEFECTS.values() for rule in d.rules} == {rule.id for rule in rules()}


def test_what_can_be_mended_is_shown_to_be():
    shown = {rule for d in DEFECTS.values() if d.mended for rule in d.rules}
    assert shown == {rule.id for rule in rules() if rule.repair}


@pytest.mark.parametrize("name", ["nms_inside", "nms_as_a_plugin"])
def test_nms_is_cut_off_on_request_only(name: str, tmp_path: Path):
    path = DEFECTS[name].make(tmp_path)
    model = read_model(path)
    assert not repair(model, path).done
    stripped = repair(model, path, strip_nms=True)
    assert [o.name for o in stripped.model.graph.output] == ["boxes", "scores"]
    assert not {"NonMaxSuppression", "EfficientNMS_TRT"} & {n.op_type for n in stripped.model.graph.node}
    raw = defects.base()
    onnx.save(raw, tmp_path / "raw.onnx")
    onnx.save(stripped.model, tmp_path / "cut.onnx")
    pictures = np.random.default_rng(1).random((3, 3, *SIZE)).astype(np.float16)
    (rows,) = run(tmp_path / "raw.onnx", pictures, 3)
    boxes, scores = run(tmp_path / "cut.onnx", pictures, 3)
    np.testing.assert_allclose(boxes, rows[:, :4].transpose(0, 2, 1), rtol=1e-5, atol=1e-6)
    wanted = rows[:, 4:] if name == "nms_inside" else rows[:, 4:].transpose(0, 2, 1)
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-6)


def test_the_table_names_backends_that_fail():
    from eyas.doctor.rules.operators import LACKING

    assert "NonMaxSuppression" in LACKING["tensorrt_rtx"]
    for ops in LACKING.values():
        assert all(onnx.defs.has(op) for op in ops)


def test_openvino_really_lacks_what_the_table_says(tmp_path: Path):
    openvino = pytest.importorskip("openvino")
    path = DEFECTS["an_operator_that_openvino_lacks"].make(tmp_path)
    with pytest.raises(Exception, match="No conversion rule found for operations: Det"):
        openvino.Core().read_model(path)


# ---- what is healthy stays as it is ----


@pytest.mark.parametrize("kind", zoo.KINDS)
@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_a_healthy_network_has_notes_at_most_and_nothing_to_mend(kind: str, opset: int, tmp_path: Path):
    path = tmp_path / "net.onnx"
    onnx.save(zoo.network(kind, opset=opset), path)
    repaired = repair(read_model(path), path)
    assert not repaired.done
    assert not repaired.undone
    assert {f.severity for f in repaired.left} <= {"note"}
    assert not any(f.repairable for f in repaired.left)


def test_the_bundled_network_is_healthy():
    findings = examine(read_model(BUNDLED), BUNDLED)
    assert findings == []
