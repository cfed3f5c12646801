"""The operator of docs/write-a-plug-in.md, taken from the page: expansion, kernel, plug-in, and torch where it is."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import ROOT
from onnx import helper
from test_docs import blocks
from test_ops import desc, stand_in

from eyas import ops, registry
from eyas.ops import _kernel, _trt_plugin
from eyas.types import BuildSpec

PAGE = ROOT / "docs" / "write-a-plug-in.md"


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's module, installed as its package would be: by the page's entry point."""
    (code,) = blocks(PAGE, "python")
    (entry,) = blocks(PAGE, "toml")
    (tmp_path / "your_package").mkdir()
    (tmp_path / "your_package" / "leaky_square.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    ((group, named),) = tomllib.loads(entry)["project"]["entry-points"].items()
    found = EntryPoints(EntryPoint(name, value, group) for name, value in named.items())
    monkeypatch.setattr(registry, "entry_points", lambda group: found.select(group=group))
    yield importlib.import_module("your_package.leaky_square")
    for name in ("your_package", "your_package.leaky_square"):
        sys.modules.pop(name)


def model(element: int, **attributes: float) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, element, [2, 9]) for n in "xy")
    node = helper.make_node("LeakySquare", ["x"], ["y"], domain="acme", **attributes)
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("acme", 1)]
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=imports, ir_version=9)


def test_the_page_is_one_operator(leaky: ModuleType):
    assert ops.operators()["acme", "LeakySquare"] is leaky
    np.testing.assert_array_equal(leaky.formula(np, np.array([-2.0, 0, 3]), 0.25), [0.25, 0, 9])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_it_runs_on_every_backend(leaky: ModuleType, backend: str, dtype: type):
    pytest.importorskip(backend)
    x = np.random.default_rng(1).normal(0, 2, (2, 9)).astype(dtype)
    for said, alpha in (({}, 0.5), ({"alpha": 0.125}, 0.125)):
        graph = model(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), **said)
        assert ops.expand_custom(graph) == 1
        engine = registry.get("backends", backend).open_engine(graph, BuildSpec("fp32"))
        (got,) = engine.infer({"x": x}).values()
        engine.close()
        wanted = leaky.formula(np, x.astype(np.float64), alpha)
        np.testing.assert_allclose(got, wanted, rtol=3e-3 if dtype is np.float16 else 1e-6)


def test_its_kernels_are_those_that_the_page_declares(leaky: ModuleType):
    (declared,) = blocks(PAGE, "c")
    for line in declared.splitlines():
        assert line.removesuffix(";") in leaky.CUDA.replace("count_t n", "unsigned long long n")
    core = pytest.importorskip("cuda.core", reason="the extra `cuda` is not installed")
    try:
        core.Program("", "c++", core.ProgramOptions(arch="sm_80")).compile("cubin")
    except Exception as error:
        pytest.skip(f"cuda-core finds no NVRTC: {str(error)[:80]}")
    assert b"leakysquare_fp16" in _kernel.compiled(leaky, "sm_89").code


def test_its_plug_in_keeps_the_attribute(leaky: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_trt_plugin, "_CREATORS", {})
    trt = stand_in()
    assert ("acme", "LeakySquare") in _trt_plugin.register(trt)
    creator = trt.get_plugin_registry().get_creator("LeakySquare", "1", "acme")
    field = trt.PluginField("alpha", np.array([0.125], np.float32), trt.PluginFieldType.FLOAT32)
    built = creator.create_plugin("n", [field], trt.TensorRTPhase.BUILD)
    read = creator.create_plugin("n", built.get_fields_to_serialize(), trt.TensorRTPhase.RUNTIME)
    seen: list[Any] = []
    monkeypatch.setattr(_kernel, "launch", lambda *given, **numbers: seen.append((given, numbers)))
    shape = desc(trt, trt.DataType.FLOAT, (2, 9))
    read.enqueue([shape], [shape], [16], [32], 0, 5)
    assert seen == [((leaky, np.float32, [16], 32, 18, 5), {"alpha": 0.125})]


def test_the_page_in_torch(leaky: ModuleType):
    pytest.importorskip("onnxscript", reason="PyTorch's exporter is not installed: make test-torch")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch")
    from eyas.torch_module import from_torch

    (code,) = blocks(PAGE, "py")
    space: dict[str, Any] = {"__name__": "page"}
    exec(code, space)  # noqa: S102 - our own page
    torch.manual_seed(0)
    net, x = space["Net"](), torch.randn(2, 3, 12, 12)
    with from_torch(net, x, precision="fp32") as compiled, torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x), atol=1e-5, rtol=1e-4)


def test_what_the_page_names_is_there():
    text = PAGE.read_text(encoding="utf-8")
    for path in ("src/eyas/ops/hswish.py", "benchmarks/gpu_hswish.py", "tests/test_ops.py"):
        assert path in text
        assert (ROOT / path).is_file()
