"""eyas.from_torch: what comes back is the module, on any backend, for inputs and outputs of every form."""

from __future__ import annotations

import sys
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from eyas import ops
from eyas.errors import BackendError, EyasError, ModelError, OptionError
from eyas.torch_module import from_torch

BACKENDS = ("openvino", "onnxruntime")


def test_without_torch_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[export\]'"):
        from_torch(object(), object())


@pytest.fixture(scope="module")
def torch() -> Any:
    """PyTorch, which `make test` does without; `make test-torch` brings it."""
    pytest.importorskip("onnxscript", reason="PyTorch's exporter is not installed: make test-torch")
    return pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch")


def net(torch: Any) -> Any:
    """Convolution, batch norm, an operator of ours, dropout, and a last layer whose bias is added."""
    nn, symbol = torch.nn, ops.symbol("hswish")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)
            self.last = nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            return self.last(self.drop(symbol(self.norm(self.conv(x)))).mean((2, 3)))

    torch.manual_seed(0)
    return Net().eval()


def eager(torch: Any, module: Any, *tensors: Any) -> Any:
    with torch.no_grad():
        return module(*tensors)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fixed_shape(torch: Any, backend: str):
    module = net(torch)
    module.drop.train()  # one part alone: it must be found and left so
    x = torch.randn(1, 3, 16, 16)
    with from_torch(module, x, backend=backend, precision="fp32") as compiled:
        assert module.drop.training
        assert not module.training
        wanted = eager(torch, module.eval(), x)
        got = compiled(x)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
        got.fill_(7)  # the caller's own
        torch.testing.assert_close(compiled(x), wanted, atol=1e-5, rtol=1e-4)
        strided = torch.randn(1, 3, 16, 32)[..., ::2]
        assert not strided.is_contiguous()
        torch.testing.assert_close(compiled(strided), eager(torch, module, strided), atol=1e-5, rtol=1e-4)
        wanting = x.clone().requires_grad_()
        assert not compiled(wanting).requires_grad
        assert backend in repr(compiled).lower().replace(" ", "")
        with pytest.raises(OptionError, match=r"float32 \[2, 3, 16, 16\]; expected float32 \[1, 3, 16, 16\]"):
            compiled(torch.zeros(2, 3, 16, 16))
    with pytest.raises(BackendError, match="closed"):
        compiled(x)
    compiled.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_range_of_batches(torch: Any, backend: str):
    module = net(torch)
    with from_torch(module, torch.randn(1, 3, 16, 16), backend=backend, precision="fp32", batch=(1, 5)) as compiled:
        for count in (1, 2, 5, 3):
            x = torch.randn(count, 3, 16, 16)
            torch.testing.assert_close(compiled(x), eager(torch, module, x), atol=1e-5, rtol=1e-4)
        with pytest.raises(OptionError, match=r"expected float32 \[1…5, 3, 16, 16\]"):
            compiled(torch.zeros(6, 3, 16, 16))


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_inputs_and_outputs_of_any_form(torch: Any, backend: str):
    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(50, 8)
            self.out = torch.nn.Linear(8, 4)

        def forward(self, tokens: Any, mask: Any, unused: Any) -> Any:
            vectors = self.words(tokens) * mask.unsqueeze(-1)
            best = self.out(vectors)
            return {"scores": best, "rest": [best.argmax(-1), (vectors.sum(1),)]}

    torch.manual_seed(0)
    module = Text().eval()
    example = (torch.randint(0, 50, (2, 7)), torch.ones(2, 7), torch.zeros(2, 1))
    with from_torch(module, example, backend=backend, precision="fp32", batch=(1, 4)) as compiled:
        for count in (1, 4):
            feed = (torch.randint(0, 50, (count, 7)), torch.rand(count, 7), torch.zeros(count, 1))
            got, wanted = compiled(*feed), eager(torch, module, *feed)
            assert list(got) == ["scores", "rest"]
            assert isinstance(got["rest"][1], tuple)
            assert got["rest"][0].dtype == torch.int64
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
        with pytest.raises(OptionError, match=r"got int64 \[2, 7\], float32 \[3, 7\]"):
            compiled(torch.zeros(2, 7, dtype=torch.int64), torch.zeros(3, 7), torch.zeros(2, 1))
        with pytest.raises(OptionError, match="got none"):
            compiled()
        with pytest.raises(OptionError, match=r"got no tensor, float32 \[2, 7\]"):
            compiled(np.zeros((2, 7)), torch.zeros(2, 7), torch.zeros(2, 1))


def test_fixed_inputs_of_other_lengths(torch: Any):
    class Two(torch.nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return x.sum(1), y * 2

    example = (torch.rand(2, 3), torch.rand(5))
    with from_torch(Two(), example, backend="onnxruntime") as compiled:
        torch.testing.assert_close(compiled(*example), Two()(*example))


def test_calls_from_several_threads(torch: Any):
    module = net(torch)
    images = [torch.randn(1, 3, 16, 16) for _ in range(24)]
    with from_torch(module, images[0], precision="fp32") as compiled, ThreadPoolExecutor(4) as pool:
        for x, got in zip(images, pool.map(compiled, images), strict=True):
            torch.testing.assert_close(got, eager(torch, module, x), atol=1e-5, rtol=1e-4)


def test_a_contiguous_tensor_is_read_in_place_and_the_result_handed_on(torch: Any, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}

    class Engine:
        description = "noted"

        def infer(self, feeds: Any) -> Any:
            seen["in"] = next(iter(feeds.values()))
            seen["out"] = np.ones((2, 4), np.float32)
            return {"output0": seen["out"]}

        def close(self) -> None:
            seen["closed"] = seen.get("closed", 0) + 1

    backend = types.SimpleNamespace(open_engine=lambda model, spec: Engine())
    monkeypatch.setattr("eyas.torch_module.choose", lambda name: ("noted", backend))
    x = torch.rand(2, 4)
    with from_torch(torch.nn.ReLU(), x) as compiled:
        got = compiled(x)
    assert seen["in"].__array_interface__["data"][0] == x.data_ptr()
    assert seen["out"].__array_interface__["data"][0] == got.data_ptr()
    compiled.close()
    assert seen["closed"] == 1


def test_a_backend_with_plug_ins_keeps_the_node(torch: Any, monkeypatch: pytest.MonkeyPatch):
    kept = []

    def open_engine(model: Any, spec: Any) -> Any:
        kept.append([n.op_type for n in model.graph.node if n.domain == "eyas"])
        return types.SimpleNamespace(description="noted", close=lambda: None)

    for known in (None, frozenset({("eyas", "HSwish")})):
        brings = {} if known is None else {"custom_operators": lambda known=known: known}
        backend = types.SimpleNamespace(open_engine=open_engine, **brings)
        monkeypatch.setattr("eyas.torch_module.choose", lambda name, backend=backend: ("noted", backend))
        from_torch(net(torch), torch.randn(1, 3, 16, 16)).close()
    assert kept == [[], ["HSwish"]]


def test_arguments_that_make_no_sense(torch: Any):
    relu = torch.nn.ReLU()
    for example in (torch.zeros(()), torch.zeros(0, 3), "text", (), torch.zeros(2, dtype=torch.bfloat16)):
        with pytest.raises(OptionError, match="from_torch cannot use these arguments"):
            from_torch(relu, example)
    with pytest.raises(OptionError, match="got function with the example"):
        from_torch(lambda x: x, torch.zeros(2))
    with pytest.raises(OptionError, match="the batch range is wrong"):
        from_torch(relu, torch.zeros(2), batch=(4, 2))


def test_modules_that_cannot_be_compiled(torch: Any):
    class Decides(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2 if float(x.sum()) > 0 else x

    class Fixed(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(2, 6)

    class Noisy(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x + torch.rand(3)

    class Number(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x, 3

    class Constant(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.ones(2) + 1

    with pytest.raises(ModelError, match="reads none of its inputs"):
        from_torch(Constant(), torch.ones(2, 3))
    module = Decides().train()
    with pytest.raises(ModelError, match="torch cannot export the module"):
        from_torch(module, torch.ones(2, 3))
    assert module.training
    with pytest.raises(ModelError, match=r"refuses 1 rows: got RuntimeError.*or leave batch= out"):
        from_torch(Fixed(), torch.ones(2, 6), batch=(1, 4))
    with pytest.raises(ModelError, match="differs from the module"):
        from_torch(Noisy(), torch.ones(2, 3))
    with pytest.raises(ModelError, match="got Tensor, int; expected tensors"):
        from_torch(Number(), torch.ones(2, 3))
