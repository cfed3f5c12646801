"""`eyas doctor`: what it prints, writes and answers; files that cannot be examined or written."""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable
from pathlib import Path

import defects
import numpy as np
import onnx
import pytest
import zoo
from conftest import BUNDLED
from defects import DEFECTS
from onnx import TensorProto
from onnx.external_data_helper import set_external_data

from eyas.cli import doctor
from eyas.errors import EyasError

Answer = tuple[int, str]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run the command; (exit code, what it printed)."""

    def run(*words: object) -> Answer:
        top = argparse.ArgumentParser()
        doctor.add(top.add_subparsers(), argparse.ArgumentParser(add_help=False))
        args = top.parse_args(["doctor", *map(str, words)])
        return args.run(args), capsys.readouterr().out

    return run


def refused(ask: Callable[..., Answer], *words: object) -> str:
    """The error that the command ends with: `eyas` prints it and answers 2."""
    with pytest.raises(EyasError) as caught:
        ask(*words)
    text = str(caught.value)
    assert ": got " in text
    assert "; expected " in text
    assert len(text) < 600
    return text


# ---- exit codes and what is printed ----


def test_a_healthy_network(ask: Callable[..., Answer], tmp_path: Path):
    onnx.save(defects.base(), tmp_path / "net.onnx")
    assert ask(tmp_path / "net.onnx") == (0, "0 errors, 0 warnings, 0 notes\n")


def test_notes_are_no_findings_to_fail_on(ask: Callable[..., Answer], tmp_path: Path):
    code, text = ask(DEFECTS["a_softmax"].make(tmp_path))
    assert code == 0
    assert text.startswith("note      D701  softmax: 1 × Softmax\n")
    assert text.endswith("0 errors, 0 warnings, 1 note\n")


def test_findings_are_grouped_by_severity(ask: Callable[..., Answer], tmp_path: Path):
    path = DEFECTS["a_weight_that_is_nan"].make(tmp_path)
    model = onnx.load(path)
    for i in range(5):
        defects.put(model, f"unused{i}", [1.0], "float32")
    del model.metadata_props[:]
    onnx.save(model, path)
    code, text = ask(path)
    assert code == 1
    places = [text.index(word) for word in ("error     D401  two/w", "warning   D312  unused0", "note      D505")]
    assert places == sorted(places)
    assert "unused2" in text
    assert "unused3" not in text
    assert "and 2 more" in text
    assert text.endswith("1 error, 5 warnings, 1 note; --fix OUT tries to mend 5\n")


def test_the_backend_that_is_meant(ask: Callable[..., Answer], tmp_path: Path):
    path = DEFECTS["nms_inside"].make(tmp_path)
    code, text = ask(path, "--backend", "tensorrt_rtx")
    assert code == 1
    assert "error     D302  nms: NonMaxSuppression does not work on tensorrt_rtx" in text
    assert "D302" not in ask(path, "--backend", "onnxruntime")[1]
    assert "unknown backend" in refused(ask, path, "--backend", "openvno")


def test_a_report_for_programs(ask: Callable[..., Answer], tmp_path: Path):
    path, out = DEFECTS["batchnorm_behind_a_convolution"].make(tmp_path), tmp_path / "out.onnx"
    code, text = ask(path, "--json")
    report = json.loads(text)
    assert code == report["exit"] == 1
    (finding,) = report["findings"]
    assert list(finding) == ["rule", "severity", "node", "what", "why", "remedy", "repairable"]
    assert (finding["rule"], finding["node"], finding["repairable"]) == ("D306", "bn", True)
    code, text = ask(path, "--json", "--fix", out)
    report = json.loads(text)
    assert code == report["exit"] == 0
    assert report["findings"] == report["undone"] == []
    assert report["written"] == str(out)
    (done,) = report["done"]
    assert (done["rule"], done["count"], done["proof"]) == ("D306", 1, report["proof"])
    assert report["proof"]["pictures"] == 6
    assert 0 < report["proof"]["largest"] < report["proof"]["tolerance"]


def test_what_was_mended_is_said_with_its_proof(ask: Callable[..., Answer], tmp_path: Path):
    path, out = DEFECTS["dead_nodes"].make(tmp_path), tmp_path / "out.onnx"
    code, text = ask(path, "--fix", out)
    assert code == 0
    said = "mended    D311  dead nodes (2 ×): equal bit by bit on 6 random pictures (batches of 1, 2, 3)"
    assert text.splitlines()[:2] == [said, f"written: {out}"]
    assert ask(out)[0] == 0


def test_the_rules_as_a_table(ask: Callable[..., Answer]):
    code, text = ask("--rules")
    assert code == 0
    assert len(text.splitlines()) > 40


def test_nms_is_stripped_on_request(ask: Callable[..., Answer], tmp_path: Path):
    path, out = DEFECTS["nms_as_a_plugin"].make(tmp_path), tmp_path / "out.onnx"
    code, text = ask(path, "--fix", out)
    assert code == 1
    assert "nothing could be mended, nothing is written" in text
    assert not out.exists()
    assert ask(path, "--fix", out, "--strip-nms")[0] == 0
    assert [o.name for o in onnx.load(out).graph.output] == ["boxes", "scores"]
    assert "--strip-nms without --fix" in refused(ask, path, "--strip-nms")


# ---- the healthy, byte for byte ----


@pytest.mark.parametrize("kind", ["yolov8", "nanodet-six"])
@pytest.mark.parametrize("opset", [11, 17, 21])
def test_a_healthy_network_is_copied(kind: str, opset: int, ask: Callable[..., Answer], tmp_path: Path):
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(zoo.network(kind, opset=opset), path)
    code, text = ask(path, "--fix", out)
    assert code == 0
    assert f"not changed, copied byte for byte: {out}" in text
    assert out.read_bytes() == path.read_bytes()


def test_the_bundled_network_is_copied(ask: Callable[..., Answer], tmp_path: Path):
    assert ask("nanodet", "--fix", tmp_path / "out.onnx")[0] == 0
    assert (tmp_path / "out.onnx").read_bytes() == BUNDLED.read_bytes()


def test_a_file_that_no_model_library_would_write_is_copied_too(ask: Callable[..., Answer], tmp_path: Path):
    """Fields in another order and a field of a later ONNX: parsing and writing again would change them."""
    data = defects.base().SerializeToString()
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    path.write_bytes(data + b"\xfa\x3f\x03abc" + onnx.ModelProto(doc_string="last").SerializeToString())
    assert onnx.load(path).SerializeToString() != path.read_bytes()
    assert ask(path, "--fix", out)[0] == 0
    assert out.read_bytes() == path.read_bytes()


# ---- what cannot be examined ----


def test_files_that_are_no_network(ask: Callable[..., Answer], tmp_path: Path):
    whole = defects.base().SerializeToString()
    contents = {
        "text": b"no network\n" * 9,
        "empty": b"",
        "zeros": bytes(100),
        "cut": whole[: len(whole) // 2],
        "almost": whole[:-1],
    }
    for name, data in contents.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        assert "a complete ONNX file" in refused(ask, path), name
    assert "got a folder" in refused(ask, tmp_path)
    assert "got no such file" in refused(ask, tmp_path / "absent.onnx")
    assert "got no model" in refused(ask)


def test_damaged_files_are_refused_or_examined(
    ask: Callable[..., Answer], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """One to three bytes changed where the graph is described: an error of ours or a list of findings, no crash."""
    rng, whole, path = np.random.default_rng(4), defects.base(batch=1).SerializeToString(), tmp_path / "net.onnx"
    codes = []
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(0, 1200)] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            codes.append(ask(path)[0])
        except EyasError:
            codes.append(2)
    assert {1, 2} <= set(codes) <= {0, 1, 2}
    assert not caplog.records, caplog.text


def test_a_cycle_is_named(ask: Callable[..., Answer], tmp_path: Path):
    code, text = ask(DEFECTS["a_cycle"].make(tmp_path), "--fix", tmp_path / "out.onnx")
    assert code == 1
    assert "error     D103  two: 6 nodes wait for each other, or for such: two, two/relu, up, join …" in text
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("missing", [True, False])
def test_three_gigabytes_are_refused_before_they_are_read(missing: bool, ask: Callable[..., Answer], tmp_path: Path):
    path = DEFECTS["three_gigabytes"].make(tmp_path)
    if missing:
        (tmp_path / "net.bin").unlink()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for words in ([], ["--fix", tmp_path / "out.onnx"]):
        code, text = ask(path, *words)
        assert code == 1
        assert "error     D107  two/w: the weights take 3.0 GB, 3.0 GB of them here" in text
        assert ("D106" in text) is missing
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_weights_declared_but_not_there(ask: Callable[..., Answer], tmp_path: Path):
    model = defects.base()
    tensor = model.graph.initializer.add(name="huge", data_type=TensorProto.FLOAT, dims=[800_000_000], raw_data=b"\0")
    set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    code, text = ask(tmp_path / "net.onnx")
    assert code == 1
    assert "D106  huge: the data are outside the model's folder" in text
    assert "D107  huge: the weights take 3.2 GB" in text


# ---- what cannot be written ----


def test_outputs_that_are_refused(ask: Callable[..., Answer], tmp_path: Path):
    path = DEFECTS["dead_nodes"].make(tmp_path)
    before = path.read_bytes()
    (tmp_path / "link.onnx").symlink_to(path)
    for out in (path, tmp_path / "." / "net.onnx", tmp_path / "link.onnx"):
        assert "--fix names the model itself" in refused(ask, path, "--fix", out)
    assert "got a folder" in refused(ask, path, "--fix", tmp_path)
    assert "no folder" in refused(ask, path, "--fix", tmp_path / "absent" / "out.onnx")
    assert "a place to write to" in refused(ask, path, "--fix", "/proc/eyas.onnx")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.onnx", "net.onnx"]
