"""The operators as functions of torch: values, gradients, export to one node, and from there to a backend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import eyas
from eyas import ops
from eyas.doctor.check import examine
from eyas.errors import EyasError
from eyas.export import export, load_module
from eyas.ops import hswish

SIZE = (64, 64)


def test_without_torch_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    from eyas.ops import _torch

    _torch.symbol_of.cache_clear()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[export\]'"):
        ops.symbol("hswish")


@pytest.fixture(scope="module")
def torch() -> Any:
    """PyTorch, which `make test` does without; `make test-torch` brings it."""
    pytest.importorskip("onnxscript", reason="PyTorch's exporter is not installed: make test-torch")
    return pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch")


def classifier(torch: Any) -> Any:
    """A small classifier with two HSwish in it."""
    nn, symbol = torch.nn, ops.symbol("hswish")

    class HSwish(nn.Module):
        def forward(self, x: Any) -> Any:
            return symbol(x)

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 4), HSwish(), nn.Conv2d(8, 8, 3, 2), HSwish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip


def test_values_are_torchs_own(torch: Any):
    symbol = ops.symbol("hswish")
    x = torch.linspace(-8, 8, 1001)
    torch.testing.assert_close(symbol(x), torch.nn.functional.hardswish(x), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(symbol(x).numpy(), hswish.formula(np, x.numpy()), rtol=1e-6)
    assert symbol(x.half()).dtype == torch.float16
    assert symbol is ops.symbol("hswish")


# opcheck looks at .grad of tensors that are no leaves, and hides PyTorch's warning about it from being shown only.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_gradients_are_those_of_the_formula(torch: Any):
    x = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).mul(4).requires_grad_()
    assert torch.autograd.gradcheck(ops.symbol("hswish"), (x,))
    torch.library.opcheck(ops.symbol("hswish"), (torch.randn(3, 4, requires_grad=True),))


def nodes(path: Path) -> list[tuple[str, str]]:
    return [(n.domain, n.op_type) for n in onnx.load(path).graph.node]


@pytest.mark.parametrize("kind", ["module", "program"])
def test_the_export_keeps_one_node_each_and_runs(torch: Any, tmp_path: Path, kind: str):
    module: Any = classifier(torch)
    path = tmp_path / "c.onnx"
    images = torch.rand(2, 3, *SIZE)
    wanted = module(images).detach().numpy()
    if kind == "program":
        shapes = ({0: torch.export.Dim("n")},)
        torch.export.save(torch.export.export(module, (images,), dynamic_shapes=shapes), tmp_path / "c.pt2")
        module = load_module(tmp_path / "c.pt2")
    card = export(module, path, size=SIZE, names=list("abcde"))
    assert card is not None
    assert card.task == "classify"
    model = onnx.load(path)
    assert nodes(path).count(("eyas", "HSwish")) == 2
    assert {(o.domain, o.version) for o in model.opset_import} >= {("eyas", 1)}
    assert ops.expand_custom(model) == 2
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], wanted, atol=1e-5)


def test_an_exported_network_is_examined_and_predicts(torch: Any, tmp_path: Path):
    """Needs what build.py and doctor/rules/operators.py are to call: see docs/write-a-plug-in.md."""
    path = tmp_path / "c.onnx"
    module = classifier(torch)
    export(module, path, size=SIZE, names=list("abcde"))
    assert not [f for f in examine(onnx.load(path), path) if f.rule == "D301"]
    picture = np.random.default_rng(1).integers(0, 256, (80, 90, 3), np.uint8)
    found = []
    for backend in ("openvino", "onnxruntime"):
        with eyas.load(path, backend=backend, precision="fp32", batch=2) as model:
            found.append(model.predict(picture).probabilities)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_an_attribute_reaches_the_node(torch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import types

    from eyas import registry
    from eyas.ops._torch import symbol_of, translations

    module = types.ModuleType("leaky_square")
    module.DOMAIN, module.NAME, module.ATTRIBUTES = "acme", "LeakySquare", {"alpha": 0.25}  # type: ignore[attr-defined]
    module.formula = lambda xp, x, alpha: xp.where(x > 0, x, alpha * x) ** 2  # type: ignore[attr-defined]
    module.shape = lambda x: x  # type: ignore[attr-defined]
    real = registry.names
    monkeypatch.setitem(sys.modules, "leaky_square", module)
    monkeypatch.setattr(
        registry, "names", lambda kind: real(kind) | ({"leaky": "leaky_square"} if kind == "ops" else {})
    )
    symbol = symbol_of(module)  # type: ignore[arg-type]

    class Net(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return symbol(x) + symbol(x, 0.5) + symbol(x, alpha=2.0)

    x = torch.tensor([-2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert symbol(x, 0.5).tolist() == [1.0, 9.0]
    assert torch.autograd.gradcheck(lambda x: symbol(x, 0.5), (x,))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Net(), (torch.zeros(2, 3),), dynamo=True, verbose=False, custom_translation_table=translations()
        )
    found = [n for n in program.model_proto.graph.node if n.domain == "acme"]
    assert [ops.attributes_of(module, n) for n in found] == [{"alpha": 0.25}, {"alpha": 0.5}, {"alpha": 2.0}]  # type: ignore[arg-type]
