"""eyas.export: what comes out is the module, for every batch, in a form that every backend takes."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import eyas
from eyas.errors import EyasError, ModelError, OptionError
from eyas.export import export, load_module

SIZE = (64, 96)
NAMES = ("ant", "bee", "cow")


def test_without_torch_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[export\]'"):
        export(object(), tmp_path / "a.onnx")


def test_the_result_must_be_called_onnx(tmp_path: Path):
    with pytest.raises(OptionError, match=r"expected a name ending in \.onnx"):
        export(object(), tmp_path / "a.engine")


@pytest.fixture(scope="module")
def torch() -> Any:
    """PyTorch, which `make test` does without; `make test-torch` brings it."""
    pytest.importorskip("onnxscript", reason="PyTorch's exporter is not installed: make test-torch")
    return pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch")


def detector(torch: Any, form: str = "yolov8") -> Any:
    """A small detector in the form of a family, with exporters' usual traps in its forward()."""
    nn = torch.nn

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.SiLU())
            width = (5 if form == "levels" else 4) + len(NAMES)
            self.heads = nn.ModuleList(nn.Conv2d(8, width, 3, stride, 1) for stride in (2, 4, 8))
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Any) -> Any:
            x = self.drop(self.stem(x))
            maps = [head(x) for head in self.heads]
            if form == "levels":
                return [m.flatten(2).permute(0, 2, 1).sigmoid() for m in maps]
            flat = torch.cat([m.view(m.shape[0], m.shape[1], m.shape[2] * m.shape[3]) for m in maps], 2)
            boxes, scores = flat.split((4, len(NAMES)), 1)
            y = torch.cat([boxes.exp() * 8, scores.sigmoid()], 1)
            return (y, maps) if form == "yolov8" else y

    torch.manual_seed(0)
    return Detector()


def dims(path: Path) -> dict[str, list[int | str]]:
    model = onnx.load(path)
    values = [*model.graph.input, *model.graph.output]
    return {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in values}


def raw(path: Path, images: np.ndarray) -> np.ndarray:
    ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def test_a_detector_is_exported_with_a_free_batch_and_runs(torch: Any, tmp_path: Path):
    module = detector(torch).train()
    path = tmp_path / "new" / "det.onnx"
    card = export(module, path, size=SIZE, names=NAMES)
    assert module.training
    assert card is not None
    assert (card.family, card.names, card.input_size) == ("yolov8", NAMES, SIZE)
    cells = 8 * 12 + 4 * 6 + 2 * 3
    assert list(dims(path).values()) == [["batch", 3, *SIZE], ["batch", 7, cells]]
    images = np.random.default_rng(1).random((5, 3, *SIZE), np.float32)
    with torch.no_grad():
        wanted = module.eval()(torch.from_numpy(images))[0].numpy()
    np.testing.assert_allclose(raw(path, images), wanted, atol=1e-3, rtol=1e-4)
    for backend in ("openvino", "onnxruntime"):
        with eyas.load(path, backend=backend, precision="fp32", batch=3) as model:
            assert model.card == card
            assert len(list(model.predict([np.zeros((50, 70, 3), np.uint8)] * 4, conf=0.0))) == 4


def test_each_part_of_a_module_keeps_its_mode(torch: Any, tmp_path: Path):
    module = detector(torch).train()
    module.stem[1].eval()  # a batch norm that is frozen while the rest trains
    export(module, tmp_path / "det.onnx", size=SIZE, names=NAMES)
    assert module.training
    assert module.stem[0].training
    assert not module.stem[1].training


def test_what_a_network_gives_a_stride_becomes_one_output(torch: Any, tmp_path: Path):
    module = detector(torch, "levels").eval()
    path = tmp_path / "levels.onnx"
    card = export(module, path, size=SIZE, names=NAMES, family="yolox")
    assert card is not None
    assert list(dims(path).values())[1:] == [["batch", 8 * 12 + 4 * 6 + 2 * 3, 8]]
    images = np.random.default_rng(1).random((2, 3, *SIZE), np.float32)
    with torch.no_grad():
        wanted = torch.cat(module(torch.from_numpy(images)), 1).numpy()
    np.testing.assert_allclose(raw(path, images), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["script", "program", "weights", "checkpoint"])
def test_files_of_every_kind(torch: Any, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    module = detector(torch, "plain").eval()
    example = torch.zeros(2, 3, *SIZE)
    file, factory = tmp_path / "net.pt", None
    if kind == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather be exported
            torch.jit.save(torch.jit.trace(module, example), file)
    elif kind == "program":
        file = tmp_path / "net.pt2"
        torch.export.save(torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("n")},)), file)
    else:
        state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        torch.save(state if kind == "weights" else {"state_dict": state, "epoch": 3}, file)
        monkeypatch.setattr(sys.modules[__name__], "made_here", lambda: detector(torch, "plain"), raising=False)
        factory = f"{__name__}:made_here"
    path = tmp_path / "net.onnx"
    card = export(load_module(file, factory), path, size=SIZE, names=NAMES)
    assert card is not None
    assert card.family == "yolov8"
    shapes = list(dims(path).values())
    assert shapes == [["batch", 3, *SIZE], ["batch", 7, 126]] or kind == "script"
    images = np.random.default_rng(1).random((4, 3, *SIZE), np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(raw(path, images), wanted, atol=1e-3, rtol=1e-4)
    with eyas.load(path, precision="fp32") as model:
        assert model.card.names == NAMES


def test_a_classifier(torch: Any, tmp_path: Path):
    nn = torch.nn
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    card = export(module, tmp_path / "c.onnx", size=(64, 64), names=list("abcde"))
    assert card is not None
    assert card.task == "classify"
    with eyas.load(tmp_path / "c.onnx") as model:
        result = model.predict(np.zeros((80, 90, 3), np.uint8))
    assert isinstance(result, eyas.Classification)
    assert result.probabilities.sum() == pytest.approx(1, abs=1e-3)


def test_a_network_of_no_known_family_is_written_without_a_card(
    torch: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    module = torch.nn.Conv2d(3, 5, 3)
    assert export(module, tmp_path / "c.onnx", size=SIZE) is None
    assert any("no card is written" in r.message for r in caplog.records)
    assert (tmp_path / "c.onnx").exists()


def test_modules_that_cannot_be_exported(torch: Any, tmp_path: Path):
    class Decides(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2 if float(x.sum()) > 0 else x

    class Fixed(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(2, 3 * SIZE[0] * SIZE[1])

    with pytest.raises(ModelError, match="torch cannot export the module"):
        export(Decides(), tmp_path / "bad.onnx", size=SIZE)
    with pytest.raises(ModelError, match="refuses a batch of 1"):
        export(Fixed(), tmp_path / "bad.onnx", size=SIZE)
    assert not (tmp_path / "bad.onnx").exists()


def test_a_module_whose_results_are_random_is_found_out(torch: Any, tmp_path: Path):
    class Noisy(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.mean((2, 3)) + torch.rand(3)

    with pytest.raises(ModelError, match="differs from the module"):
        export(Noisy(), tmp_path / "noise.onnx", size=SIZE)
    assert not (tmp_path / "noise.onnx").exists()


def test_files_and_factories_that_make_no_module(torch: Any, tmp_path: Path):
    pickled, text = tmp_path / "module.pt", tmp_path / "text.pt"
    torch.save(torch.nn.ReLU(), pickled)
    text.write_text("nothing")
    with pytest.raises(ModelError, match="there is no file"):
        load_module(tmp_path / "none.pt")
    for file in (pickled, text):
        with pytest.raises(ModelError, match="no module that can be opened alone"):
            load_module(file)
    with pytest.raises(ModelError, match="holds more than weights"):
        load_module(pickled, "torch.nn:ReLU")
    with pytest.raises(OptionError, match="makes no module"):
        load_module(pickled, "torch.nn:Nothing")
    weights = tmp_path / "w.pt"
    torch.save(torch.nn.Conv2d(3, 4, 3).state_dict(), weights)
    with pytest.raises(ModelError, match="do not fit the module"):
        load_module(weights, "torch.nn:ReLU")
    torch.save({"epoch": 3}, weights)
    with pytest.raises(ModelError, match="holds no weights"):
        load_module(weights, "torch.nn:ReLU")
