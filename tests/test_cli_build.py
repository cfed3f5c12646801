"""`eyas build`, `eyas inspect`, `eyas cache`: flags, output, exit codes."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from conftest import BUNDLED, SAMPLES

from eyas.cli import main
from eyas.cli.build import batches, recipe_of, target
from eyas.cli.cache import period, size
from eyas.engines.layers import by_kind, by_precision, graph_layers
from eyas.engines.sidecar import graph_path, read_sidecar, sidecar_path

PICTURE = str(SAMPLES / "chelsea.jpg")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def built(out: Path, *flags: str, backend: str = "null") -> Path:
    assert main(["build", "nanodet", "--backend", backend, "-q", "-o", str(out), *flags]) == 0
    return out


# ---- build ----


def test_build_and_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "nano.blob"
    assert main(["build", "nanodet", "--backend", "openvino", "-o", str(out)]) == 0
    assert re.search(r"eyas: .*nano\.blob: 15\.\d MB in \d+\.\d s, openvino \S+, for CPU ", capsys.readouterr().err)
    assert main(["predict", PICTURE, "-m", str(out), "-q"]) == 0
    assert "1 cat" in capsys.readouterr().out


def test_flags_reach_the_specification(tmp_path: Path):
    library = tmp_path / "lib.so"
    library.touch()
    from eyas.cli import parser

    words = "build nanodet --backend tensorrt_rtx --target SM89 8.6 --precision fp16 --batch 1:8:32 --hint throughput"
    words += f" --device cuda:1 --workspace 64 --level 4 --sparse --plugins {library} --max-det 50 --classes cat dog"
    words += f" --agnostic-nms --no-gpu-fallback --timing-cache t -o {tmp_path / 'x'}"
    pytest.importorskip("tensorrt_rtx")
    recipe = recipe_of(parser().parse_args(words.split()))
    spec = recipe.spec
    assert (spec.precision, spec.batch, spec.hint, spec.device) == ("fp16", (1, 8, 32), "throughput", "cuda:1")
    assert spec.targets == ("sm89", "sm86")
    assert spec.options == {
        "workspace_mib": 64,
        "optimisation_level": 4,
        "sparse": True,
        "plugins": [str(library)],
        "timing_cache": "t",
        "gpu_fallback": False,
    }
    assert (recipe.head.max_candidates, recipe.head.classes, recipe.head.agnostic) == (50, (15, 16), True)


def test_a_network_of_a_fixed_batch_is_built_for_it(tmp_path: Path):
    model = zoo.network("nanodet-8", batch=1)
    value = model.graph.node[-1].output[0]  # the batch is not to be freed: pictures depend on each other
    total = onnx.helper.make_node("ReduceMean", [f"{value}/own"], ["total"], axes=[0], keepdims=1)
    model.graph.node[-1].output[0] = f"{value}/own"
    model.graph.node.extend([total, onnx.helper.make_node("Add", [f"{value}/own", "total"], [value])])
    onnx.save(model, tmp_path / "fixed.onnx")
    (tmp_path / "names").write_text("ant\nbee\ncow\n")
    flags = ["--names", str(tmp_path / "names"), "--family", "nanodet", "--batch", "1:8:32", "-q"]
    out = tmp_path / "fixed.plan"
    assert main(["build", str(tmp_path / "fixed.onnx"), "--backend", "null", *flags, "-o", str(out)]) == 0
    assert read_sidecar(out).spec["batch"] in ([1, 1, 1], [1, 8, 32])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--backend", "openvino", "--target", "sm89"], "openvino has no such settings: got target; expected TensorRT"),
        (["--backend", "null", "--refit", "--dla-core", "0"], "null has no such settings: got dla_core, refit"),
        (["--backend", "null", "--precision", "int8"], "int8 needs a quantised model: got nanodet"),
        (["--backend", "openvno"], "Did you mean openvino?"),
        (["--backend", "null", "--classes", "unicorn"], "unicorn"),
    ],
)
def test_what_cannot_be_built_is_said(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["build", "nanodet", "-o", str(tmp_path / "x.plan"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.plan").exists()


def test_words_of_the_flags():
    assert batches("8") == (1, 8, 8)
    assert batches("1:8:32") == (1, 8, 32)
    assert [target(t) for t in ("sm89", "SM_89", "8.9", "89", "12.0", "ALL", "current")] == [
        *["sm89"] * 4,
        "sm120",
        "all",
        "current",
    ]
    assert (size("500M"), size("1.5gb"), period("30d"), period("12h")) == (500_000_000, 1_500_000_000, 2592000, 43200)
    for function, wrong in ((batches, "8:1"), (batches, "x"), (target, "ada"), (size, "5"), (period, "5y")):
        with pytest.raises(argparse.ArgumentTypeError):
            function(wrong)


def test_a_batch_out_of_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["build", "nanodet", "--backend", "null", "--batch", "4:2:8", "-o", str(tmp_path / "x.plan")]) == 2
    assert "the batch range is wrong" in capsys.readouterr().err


# ---- inspect ----


def inspected(path: Any, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["inspect", str(path), "--json", *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_inspect_a_model(capsys: pytest.CaptureFixture[str]):
    found = inspected(BUNDLED, capsys)
    model = onnx.load(BUNDLED)  # its weights are stored in fp16 and cast; eyas reads them as fp32
    rows = len([n for n in model.graph.node if n.op_type != "Cast"])
    assert len(found["layers"]) == rows
    elements = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    assert float(found["facts"]["weights"].split()[0]) == pytest.approx(4 * elements / 1e6, rel=0.01)
    assert main(["inspect", str(BUNDLED)]) == 0
    text = capsys.readouterr().out
    assert f"{rows}, as exported" in text
    assert "the 20 largest" in text
    assert len(text.splitlines()) < 40
    assert main(["inspect", str(BUNDLED), "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > rows


def test_layers_of_a_graph_and_their_memory():
    """x [2, 3, 4] → Relu → a, Add(a, w) → y: at most x, a, or a, y, at once."""
    value = onnx.helper.make_tensor_value_info
    weights = onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    nodes = [onnx.helper.make_node("Relu", ["x"], ["a"], "r"), onnx.helper.make_node("Add", ["a", "w"], ["y"], "s")]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["B", 3, 4])], [value("y", 1, ["B", 3, 4])], [weights])
    rows, memory = graph_layers(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), 2)
    assert [(r.name, r.kind, r.precision, r.shape) for r in rows] == [
        ("r", "Relu", "fp32", (2, 3, 4)),
        ("s", "Add", "fp32", (2, 3, 4)),
    ]
    assert [(r.weight_bytes, r.output_bytes) for r in rows] == [(0, 96), (48, 96)]
    assert (memory.weights, memory.peak, memory.unknown) == (48, 192, 0)
    assert by_kind(rows) == {"Relu": 1, "Add": 1}
    assert by_precision(rows) == {"fp32": 2}


def test_inspect_an_engine_shows_what_was_fused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = inspected(built(tmp_path / "nano.blob", backend="openvino"), capsys)
    assert found["source"] == "as openvino runs them"
    assert found["facts"]["signed"] == "here"
    convolutions = [layer for layer in found["layers"] if layer["kind"] == "Convolution"]
    assert len(convolutions) > 30
    assert any(len(layer["fused"]) > 1 for layer in convolutions)
    assert {layer["precision"] for layer in convolutions} <= {"fp32", "bf16", "fp16"}


def test_inspect_an_optimised_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnxruntime")
    found = inspected(built(tmp_path / "nano.onnx", backend="onnxruntime"), capsys)
    assert found["source"] == "as ONNX Runtime optimised them"
    assert "FusedConv" in {layer["kind"] for layer in found["layers"]}


def test_inspect_a_plan_where_it_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("tensorrt_rtx")
    from eyas.trt.device import why_unusable

    if why_unusable(rtx=True) is None:
        pytest.skip("it runs here")
    flags = ["--precision", "fp16", "--target", "sm89", "--batch", "4"]
    found = inspected(built(tmp_path / "nano.plan", *flags, backend="tensorrt_rtx"), capsys)
    assert "cannot run here" in found["facts"]["not opened"]
    assert found["facts"]["runs on"] == "sm89"
    assert found["source"] == "of the graph it was built from, before fusion"
    assert {layer["precision"] for layer in found["layers"] if layer["kind"] == "Conv"} == {"fp16"}
    assert next(layer["shape"][0] for layer in found["layers"] if layer["kind"] == "Conv") == 4


def test_inspect_opens_nothing_that_does_not_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: Path):
    out = built(tmp_path / "nano.blob", backend="openvino")
    (folder / "key").unlink()
    assert main(["inspect", str(out)]) == 2
    assert "not signed here" in capsys.readouterr().err
    assert inspected(out, capsys, "--trust")["facts"]["signed"] == "not here"


def test_inspect_reads_what_ultralytics_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = json.dumps({"description": "Ultralytics YOLOv8n", "stride": 32}).encode()
    engine = tmp_path / "yolov8n.engine"
    engine.write_bytes(len(said).to_bytes(4, "little", signed=True) + said + b"ftrt" + bytes(100))
    assert main(["inspect", str(engine)]) == 2
    assert "--trust" in capsys.readouterr().err
    found = inspected(engine, capsys, "--trust")
    assert found["facts"]["stride"] == 32
    engine.write_bytes(b"ftrt" + bytes(100))
    assert main(["inspect", str(engine), "--trust"]) == 2
    assert "no metadata before the plan" in capsys.readouterr().err


def test_inspect_draws(tmp_path: Path):
    pytest.importorskip("matplotlib")
    assert main(["inspect", str(BUNDLED), "--plot", str(tmp_path / "x.png"), "-q"]) == 0
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_inspect_says_when_there_is_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "y.engine"
    out.write_bytes((2).to_bytes(4, "little") + b"{}plan")
    assert main(["inspect", str(out), "--trust", "--plot", str(tmp_path / "x.png")]) == 2
    assert "nothing to draw" in capsys.readouterr().err


# ---- cache ----


def test_cache_list_and_prune(folder: Path, capsys: pytest.CaptureFixture[str]):
    out = built(folder.parent / "nano.plan")
    kept = folder / f"{'ab' * 16}.plan"
    for path, place in ((out, kept), (sidecar_path(out), sidecar_path(kept)), (graph_path(out), graph_path(kept))):
        path.rename(place)
    assert main(["cache", "list"]) == 0
    text = capsys.readouterr().out
    assert f"{'ab' * 16} " in text
    assert "1 engine, 15." in text
    assert main(["cache", "list", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["backend"], row["device"], row["path"]) == ("null", "any", str(kept))
    assert main(["cache", "prune"]) == 2
    assert "expected --max-size or --older-than" in capsys.readouterr().err
    assert main(["cache", "prune", "--older-than", "1d"]) == 0
    assert "0 files deleted" in capsys.readouterr().err
    assert main(["cache", "prune", "--max-size", "0M"]) == 0
    assert "3 files deleted" in capsys.readouterr().err
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out.startswith("0 engines, 0.0 MB in ")


def test_a_wts_file_becomes_an_engine_layer_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    import wts_zoo

    from eyas.cli import main
    from eyas.wts.arch import architecture
    from eyas.wts.file import write_wts

    file, plan = tmp_path / "small.wts", tmp_path / "small.plan"
    write_wts(file, wts_zoo.checkpoint(architecture("yolov5n")))
    common = ["build", str(file), "--imgsz", "64", "--backend", "tensorrt_rtx", "--target", "sm89", "-o", str(plan)]
    assert main([*common, "-q"]) == 0
    assert plan.stat().st_size > 100_000
    assert main([*common, "--num-classes", "7"]) == 2
    assert "the number of classes does not fit the weights" in capsys.readouterr().err
    assert main(["build", "nanodet", "--arch", "yolov5n", "-o", str(tmp_path / "n.blob")]) == 2
    assert "these flags are for .wts files: got --arch" in capsys.readouterr().err
