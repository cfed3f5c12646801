"""Files that are no network, are cut off, reach outside their folder, or take no picture: each is told apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from eyas.build import Network, deploy_graph, open_network
from eyas.card import settle_card
from eyas.errors import CardError, EyasError, ModelError
from eyas.graph.head import HeadSpec
from eyas.graph.network import facts_of, read_network

NAMES = ("ant", "bee", "cow")


def said(path: Path, *words: str, error: type[EyasError] = ModelError) -> str:
    """Read the file; it must be refused with what was got, what was expected, and these words."""
    with pytest.raises(error) as caught:
        read_network(path)
    return spoken(caught.value, *words)


def spoken(error: EyasError, *words: str) -> str:
    text = str(error)
    for word in (": got ", "; expected ", *words):
        assert word in text, f"{word!r} is not in {text!r}"
    assert len(text) < 600
    return text


@pytest.fixture(scope="module")
def whole() -> bytes:
    return zoo.network("yolox").SerializeToString()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of its own inside another, so that there is an outside."""
    inner = tmp_path / "model"
    inner.mkdir()
    return inner


# ---- not a network at all ----


def test_a_valid_file_is_read_as_it_is(tmp_path: Path, whole: bytes):
    path = tmp_path / "good.onnx"
    path.write_bytes(whole)
    assert read_network(path).SerializeToString() == whole


def test_a_missing_file_names_one_that_is_nearly_it(tmp_path: Path, whole: bytes):
    (tmp_path / "detector.onnx").write_bytes(whole)
    said(tmp_path / "detectr.onnx", "there is no model", "no such file", "Did you mean detector.onnx?")
    text = said(tmp_path / "zzz.onnx", "no such file", "an .onnx file or the name of a model", "Check the path.")
    assert "Did you mean" not in text
    said(tmp_path / "no folder" / "detector.onnx", "no such file")


def test_a_missing_file_through_open_network_too(tmp_path: Path):
    with pytest.raises(ModelError, match="there is no model nanodett: got neither a file nor a known name"):
        open_network("nanodett")
    with pytest.raises(ModelError, match="no such file"):
        open_network(str(tmp_path / "absent.onnx"))


def test_a_folder(tmp_path: Path):
    (tmp_path / "net.onnx").mkdir()
    said(tmp_path / "net.onnx", "a folder", "an .onnx file")
    said(tmp_path, "a folder")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".engine", ".tflite", ".PT"])
def test_another_frameworks_file_is_told_by_its_suffix(tmp_path: Path, whole: bytes, suffix: str):
    path = tmp_path / f"yolo{suffix}"
    path.write_bytes(whole)
    said(path, "is not ONNX", f"a {suffix} file", "expected .onnx", "Export it to ONNX.")


CONTENTS = {
    "text": b"This is no network.\n" * 20,
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
    "zip": b"PK\x03\x04" + bytes(range(256)),
    "zeros": bytes(1000),
    "0xff": b"\xff" * 1000,
    "json": b'{"irVersion": 8}',
}


@pytest.mark.parametrize("suffix", [".onnx", ".json", ".txt", ".textproto", ".onnxtxt", ".onnxjson", ""])
@pytest.mark.parametrize("what", CONTENTS)
def test_other_contents_whatever_the_suffix(tmp_path: Path, what: str, suffix: str):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(CONTENTS[what])
    said(path, str(path), "a complete ONNX file", "It may be cut off or of another kind")


def test_a_network_is_read_by_its_contents_whatever_the_suffix(tmp_path: Path, whole: bytes):
    for suffix in ("", ".bin", ".json", ".ONNX"):
        path = tmp_path / f"net{suffix}"
        path.write_bytes(whole)
        assert read_network(path).SerializeToString() == whole


def test_an_empty_file(tmp_path: Path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    said(tmp_path / "empty.onnx", "holds no network", "0 operators, 0 outputs", "a complete ONNX file")


def test_a_graph_that_is_not_valid(tmp_path: Path):
    model = zoo.network("yolox")
    model.graph.node[1].input[0] = "nowhere"
    path = tmp_path / "broken.onnx"
    path.write_bytes(model.SerializeToString())
    said(path, "is not a valid network", "nowhere", "a graph that onnx.checker accepts")


# ---- cut off and corrupted ----


def test_every_file_that_is_cut_off_is_refused(tmp_path: Path, whole: bytes):
    rng = np.random.default_rng(0)
    ends = {0, 1, 2, 3, len(whole) // 2, *range(len(whole) - 24, len(whole)), *rng.integers(4, len(whole), 20).tolist()}
    path = tmp_path / "cut.onnx"
    for end in sorted(ends):
        path.write_bytes(whole[:end])
        said(path, "expected", "copy or export it again")


def test_a_download_filled_up_with_zeros_is_refused(tmp_path: Path, whole: bytes):
    path = tmp_path / "holes.onnx"
    for end in (100, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:end].ljust(len(whole), b"\0"))
        try:
            read = read_network(path)
        except ModelError:
            continue
        assert end > 100, "only the weights can have become zeros"
        assert [n.op_type for n in read.graph.node] == [n.op_type for n in zoo.network("yolox").graph.node]


def test_flipped_bytes_never_raise_anything_but_our_errors(tmp_path: Path, whole: bytes):
    rng = np.random.default_rng(1)
    path = tmp_path / "flipped.onnx"
    refused = 0
    for _ in range(80):
        data = bytearray(whole)
        middle = rng.integers(0, len(data))  # where names and shapes are, as well as weights
        for at in (middle, *rng.integers(max(0, len(data) - 700), len(data), 2)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            facts = facts_of(read_network(path))
            settle_card(facts, family_name="yolox", names=NAMES)
        except EyasError:
            refused += 1
    assert refused > 20


# ---- weights in other files ----


def external(path: Path, location: str, data: Path | None = None, where: str = "initializer", **more: int) -> None:
    """Write a yolox whose first weight lies at `location`, and its bytes to `data`."""
    model = zoo.network("yolox")
    tensor = model.graph.initializer[0]
    content = numpy_helper.to_array(tensor).tobytes()
    if where == "constant":
        moved = onnx.TensorProto()
        moved.CopyFrom(tensor)
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, helper.make_node("Constant", [], [moved.name], value=moved))
        tensor = model.graph.node[0].attribute[0].t
    if data is not None:
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_bytes(content)
    set_external_data(tensor, location, **more)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())


PLACES = ("initializer", "constant")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("location", ["weights.bin", "parts/weights.bin", "./weights.bin"])
def test_weights_beside_the_model_are_read(folder: Path, location: str, where: str):
    external(folder / "net.onnx", location, folder / location, where)
    read = read_network(folder / "net.onnx")
    tensors = [*read.graph.initializer, *(a.t for n in read.graph.node for a in n.attribute if a.HasField("t"))]
    arrays = {t.name: numpy_helper.to_array(t) for t in tensors}
    for tensor in zoo.network("yolox").graph.initializer:
        np.testing.assert_array_equal(arrays[tensor.name], numpy_helper.to_array(tensor))
    assert not any(t.external_data for t in tensors)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("location", ["../weights.bin", "parts/../../weights.bin", "absolute"])
def test_weights_outside_the_folder_are_refused(folder: Path, location: str, where: str):
    outside = folder.parent / "weights.bin"
    (folder / "parts").mkdir()
    location = str(outside) if location == "absolute" else location
    external(folder / "net.onnx", location, outside, where)
    said(folder / "net.onnx", "keeps weights outside its folder", location, str(folder), "Put the weights beside")


@pytest.mark.parametrize("where", PLACES)
def test_a_link_that_leads_outside_is_refused(folder: Path, where: str):
    outside = folder.parent / "weights.bin"
    external(folder / "net.onnx", "inside.bin", outside, where)
    (folder / "inside.bin").symlink_to(outside)
    said(folder / "net.onnx", "keeps weights outside its folder", "inside.bin", "Put the weights beside")
    (folder / "parts").symlink_to(folder.parent)
    external(folder / "net.onnx", "parts/weights.bin", None, where)
    said(folder / "net.onnx", "keeps weights outside its folder", "parts/weights.bin")


@pytest.mark.parametrize("where", PLACES)
def test_weights_that_are_not_there(folder: Path, where: str):
    external(folder / "net.onnx", "gone.bin", None, where)
    said(folder / "net.onnx", "lacks its weights", "no file gone.bin", "Copy the data file")


def test_weights_whose_place_is_empty_or_a_folder(folder: Path):
    (folder / "sub").mkdir()
    for location in ("", "sub", "."):
        external(folder / "net.onnx", location)
        said(folder / "net.onnx", "lacks its weights", "Copy the data file")


@pytest.mark.parametrize(
    ("size", "more"), [(100, {}), (0, {}), (648, {"offset": 600, "length": 648}), (648, {"offset": 10**9})]
)
def test_weights_that_are_cut_off(folder: Path, size: int, more: dict[str, int]):
    data = folder / "weights.bin"
    external(folder / "net.onnx", "weights.bin", data, **more)
    assert len(data.read_bytes()) == 6 * 3 * 9 * 4 == 648
    data.write_bytes(data.read_bytes()[:size])
    said(folder / "net.onnx", str(folder / "net.onnx"), "again")


def test_a_linked_model_finds_the_weights_beside_the_link(folder: Path):
    external(folder / "net.onnx", "weights.bin", folder / "weights.bin")
    other = folder.parent / "other"
    other.mkdir()
    (other / "net.onnx").symlink_to(folder / "net.onnx")
    said(other / "net.onnx", "lacks its weights")
    shutil.copy(folder / "weights.bin", other / "weights.bin")
    assert read_network(other / "net.onnx").graph.initializer[0].raw_data


def test_a_folder_reached_through_a_link_is_still_the_models_folder(folder: Path):
    external(folder / "net.onnx", "weights.bin", folder / "weights.bin")
    alias = folder.parent / "alias"
    alias.symlink_to(folder)
    assert read_network(alias / "net.onnx").graph.initializer[0].raw_data


# ---- not a network for pictures ----


def refused(change: Callable[[onnx.ModelProto], None], *words: str) -> None:
    model = zoo.network("yolox")
    change(model)
    with pytest.raises(CardError) as caught:
        facts_of(model)
    spoken(caught.value, *words)


def dims(model: onnx.ModelProto, *shape: int | str) -> None:
    element = model.graph.input[0].type.tensor_type.elem_type
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", element, shape))


def test_a_second_input():
    value = helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1, 2])
    refused(
        lambda m: m.graph.input.append(value),
        "does not take one picture",
        "inputs input [batch, 3, 64, 64], scale [1, 2]",
        "one input [batch, 3, height, width]",
        "Export the network alone",
    )


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (1, 64, 64, 4), (1, 3, 64), (1, 12), (1, 4, 64, 64), ()])
def test_an_input_that_is_no_picture(shape: tuple[int, ...]):
    refused(lambda m: dims(m, *shape), "does not take one picture", str(list(shape)), "[batch, 3, height, width]")


def test_no_input_at_all():
    refused(lambda m: m.graph.input.pop(), "does not take one picture", "inputs none")


def test_a_sequence_of_pictures():
    def change(model: onnx.ModelProto) -> None:
        value = helper.make_tensor_sequence_value_info("input", TensorProto.FLOAT, [1, 3, 64, 64])
        model.graph.input[0].CopyFrom(value)

    refused(change, "does not take one picture")


def test_old_exports_list_their_weights_among_the_inputs():
    model = zoo.network("yolox")
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    facts = facts_of(model)
    assert facts.input_shape == ("batch", 3, 64, 64)
    settled = settle_card(facts, family_name="yolox", names=NAMES)
    onnx.checker.check_model(deploy_graph(Network(model, facts, settled), HeadSpec()), full_check=True)


# ---- facts ----


def test_the_facts_of_a_network():
    model = zoo.network("nanodet-six", size=(96, 64), batch=2)
    model.metadata_props.add(key="author", value="someone")
    facts = facts_of(model)
    assert facts.size == (96, 64)
    assert facts.batch == 2
    assert list(facts.outputs.items())[::3] == [("cls_pred_stride_8", (2, 96, 3)), ("dis_pred_stride_8", (2, 96, 32))]
    assert facts.metadata == {"author": "someone"}
    assert {"Conv", "Tanh", "Sigmoid"} <= facts.ops
    assert facts_of(zoo.network("yolox")).batch is None
    assert facts.describe().startswith("input [2, 3, 96, 64] → cls_pred_stride_8 [2, 96, 3], ")


# ---- size ----


def free(kind: str, *, height: int | str = "height", width: int | str = "width") -> onnx.ModelProto:
    """A network that takes pictures of any size, its output's rows unnamed or without any shape."""
    model = zoo.network(kind)
    dims(model, "batch", 3, height, width)
    for output in model.graph.output:
        shape = [d.dim_value or d.dim_param for d in output.type.tensor_type.shape.dim]
        shape = [f"{output.name}_cells" if i == (2 if kind == "yolov8" else 1) else d for i, d in enumerate(shape)]
        output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, shape))
    return model


FREE = ("yolox", "nanodet-8", "nanodet-six", "nanodet-plus")  # the others hold their grids as constants


@pytest.mark.parametrize("kind", FREE)
def test_a_free_size_is_settled_by_the_one_given(kind: str):
    fixed = facts_of(zoo.network(kind, size=(96, 128)))
    assert facts_of(free(kind), (96, 128)) == fixed
    model = free(kind)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    facts = facts_of(model, (96, 128))
    assert list(facts.outputs) == list(fixed.outputs)
    assert [s[1:] for s in facts.outputs.values()] == [s[1:] for s in fixed.outputs.values()]


def test_a_free_size_makes_a_valid_deploy_graph_of_that_size(tmp_path: Path):
    path = tmp_path / "free.onnx"
    path.write_bytes(free("yolox").SerializeToString())
    network = open_network(path, family_name="yolox", names=NAMES, size=(96, 128))
    assert network.card.input_size == (96, 128)
    graph = deploy_graph(network, HeadSpec(20))
    onnx.checker.check_model(graph, full_check=True)
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim[1:]] == [96, 128, 3]


def test_a_free_size_without_one_given_asks_for_it():
    with pytest.raises(CardError) as caught:
        facts_of(free("yolox"))
    spoken(caught.value, "pictures of any size", "[batch, 3, height, width]", "--imgsz 640", "--imgsz 384x640")


@pytest.mark.parametrize("none", [-1, 0])
def test_sizes_written_as_minus_one_or_zero_are_free(none: int):
    model = free("nanodet-8", height=none, width=none)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = none
    with pytest.raises(CardError, match="pictures of any size"):
        facts_of(model)
    facts = facts_of(model, (64, 64))
    assert facts.size == (64, 64)
    assert facts.batch is None


def test_a_size_that_contradicts_the_graph():
    with pytest.raises(CardError) as caught:
        facts_of(zoo.network("yolox"), (96, 64))
    spoken(caught.value, "input size is fixed", "--imgsz (96, 64)", "(64, 64) (height, width)", "Leave --imgsz out")
    assert facts_of(zoo.network("yolox"), (64, 64)).size == (64, 64)


def test_a_size_that_contradicts_the_one_side_that_is_fixed():
    assert facts_of(free("nanodet-8", height=64), (64, 96)).size == (64, 96)
    with pytest.raises(CardError) as caught:
        facts_of(free("nanodet-8", height=64), (96, 96))
    spoken(caught.value, "input size is fixed", "--imgsz (96, 96)", "64")


def test_a_free_network_whose_grids_are_not_is_refused_at_another_size():
    """Ultralytics' boxes are decoded with a constant grid: another size than the exported one cannot be."""
    model = free("yolov8")
    with pytest.raises(CardError):
        settle_card(facts_of(model, (96, 96)), family_name="yolov8", names=NAMES)


def test_a_fixed_network_without_output_shapes_gets_them():
    model = zoo.network("yolox")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert facts_of(model).outputs["output"][1:] == (84, 8)
