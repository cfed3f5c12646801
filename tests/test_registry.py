"""Plug-ins: found by name, a third party's through the same door, and each with the functions of its protocol."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import onnx
import pytest
import zoo

from eyas import backends, families, registry
from eyas.backends import Backend, Candidate, Engine, Feeds, Fitness, backend, candidates, choose, infer_in_steps
from eyas.build import deploy_graph, open_network
from eyas.errors import BackendError, CardError, OptionError
from eyas.families import Family, Guess, cells_at, grid
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, HeadSpec, Rows
from eyas.graph.network import Facts, facts_of
from eyas.outputs import Outputs
from eyas.types import BuildSpec, ModelCard, Normalise

BUILT_IN = {
    "families": ("nanodet", "yolov8", "yolox", "yolov5", "yolov6", "end2end", "detr"),
    "backends": ("null", "onnxruntime", "openvino"),
}
NAMES = ("ant", "bee", "cow")

Plug = Callable[[str, str, ModuleType], None]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Install a module as a third party's plug-in: plug("families", "mine", module)."""
    found: list[EntryPoint] = []

    def entry_points(**wanted: str) -> EntryPoints:
        return EntryPoints(found).select(**wanted)

    monkeypatch.setattr(registry, "entry_points", entry_points)

    def install(kind: str, name: str, module: ModuleType) -> None:
        monkeypatch.setitem(sys.modules, module.__name__, module)
        found.append(EntryPoint(name, module.__name__, f"eyas.{kind}"))

    return install


# ---- finding ----


@pytest.mark.parametrize("kind", BUILT_IN)
def test_the_built_ins_are_found(kind: registry.Kind):
    found = registry.names(kind)
    assert set(BUILT_IN[kind]) <= set(found)
    assert list(found) == sorted(found)
    for name, path in found.items():
        assert path == f"eyas.{kind}.{name}" or name not in BUILT_IN[kind]
        module = registry.get(kind, name)
        assert module.__name__ == path
        assert module.__doc__


@pytest.mark.parametrize(("kind", "word"), [("families", "family"), ("backends", "backend")])
def test_an_unknown_name_lists_the_known_ones(kind: registry.Kind, word: str):
    near = BUILT_IN[kind][1]
    for name, remedy in ((f"{near}x", f"Did you mean {near}?"), ("qqqq", "")):
        with pytest.raises(OptionError) as caught:
            registry.get(kind, name)
        text = str(caught.value)
        assert text.startswith(f"unknown {word}: got '{name}'; expected ")
        assert text.endswith(remedy)
        assert all(known in text for known in BUILT_IN[kind])


def test_an_unknown_backend_through_every_door():
    for door in (backend, choose):
        with pytest.raises(OptionError, match=r"unknown backend: got 'openvno'; expected .*Did you mean openvino"):
            door("openvno")


# ---- a third party's family ----


def own_family() -> ModuleType:
    """Of networks with outputs "corners" [B, N, 4] (0…1 of the input's size) and "chances" [B, C, N]."""
    module = ModuleType("some_package.own_family", "A family of somebody else.")

    def recognise(facts: Facts) -> list[Guess]:
        if set(facts.outputs) != {"corners", "chances"}:
            return []
        return [Guess(cast(int, facts.outputs["chances"][1]), Normalise("bgr"), "stretch", 0, 0.5, {"unit": 64})]

    def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
        corners, chances = facts.outputs  # named as in the graph, whatever it has been renamed to
        count, classes = cast(int, facts.outputs[corners][1]), len(card.names)

        def pick(index: str) -> Rows:
            boxes = g.op("Mul", g.take(corners, index, 4, 1), g.const(float(card.params["unit"])))
            return Rows(g.take(chances, index, classes, 2), boxes)

        return Cells(chances, 1, count, classes, pick)

    module.recognise, module.decode = recognise, decode  # type: ignore[attr-defined]
    return module


def own_network(path: Path) -> None:
    net = zoo.Net(21, 17, np.float32)
    level = net.op("Sigmoid", net.conv("input", 3, 7, 16, 255))
    corners = net.op("Transpose", net.reshape(net.slice(level, 0, 4, 1), 0, 4, 16), perm=[0, 2, 1])
    chances = net.reshape(net.slice(level, 4, 7, 1), 0, 3, 16)
    net.nodes += [
        onnx.helper.make_node("Identity", [corners], ["corners"]),
        onnx.helper.make_node("Identity", [chances], ["chances"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        net.nodes,
        "own",
        [value("input", 1, ["batch", 3, 64, 64])],
        [value("corners", 1, ["batch", 16, 4]), value("chances", 1, ["batch", 3, 16])],
        net.weights,
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_third_partys_family_is_found_and_used(plug: Plug, tmp_path: Path):
    own_network(tmp_path / "own.onnx")
    with pytest.raises(CardError, match="no family fits"):
        open_network(tmp_path / "own.onnx")
    plug("families", "own", own_family())
    assert registry.names("families")["own"] == "some_package.own_family"
    for asked in (None, "own"):
        network = open_network(tmp_path / "own.onnx", names=NAMES, family_name=asked)
        assert network.card == ModelCard(
            "own", (64, 64), Normalise("bgr"), NAMES, "stretch", 0, iou=0.5, params={"unit": 64}
        )
    graph = deploy_graph(network, HeadSpec())
    onnx.checker.check_model(graph, full_check=True)
    assert json.loads(graph.metadata_props[0].value)["family"] == "own"
    engine = backend("openvino").open_engine(graph, BuildSpec("fp32"))
    outputs = engine.infer({"images": zoo.pictures(1), "thresholds": np.array([[0, 1]], np.float32)})
    engine.close()
    assert outputs["count"].tolist() == [16]
    boxes = outputs["detections"][0, :, :4]
    assert (boxes >= 0).all()
    assert (boxes <= 64).all()
    assert boxes.max() > 16, "boxes are in pixels"
    assert set(outputs["detections"][0, :, 5]) <= {0, 1, 2}


def test_a_third_partys_family_is_a_rival_where_the_shapes_fit_both(plug: Plug):
    module = own_family()
    module.recognise = lambda facts: [Guess(3, Normalise())]  # type: ignore[attr-defined]
    plug("families", "own", module)
    from eyas.card import settle_card

    with pytest.raises(CardError, match="own with 3 classes or yolov8 with 3 classes"):
        settle_card(facts_of(zoo.network("yolov8")), names=NAMES)


def test_a_third_partys_plug_in_replaces_a_built_in_of_its_name(plug: Plug):
    plug("families", "yolox", own_family())
    assert registry.get("families", "yolox").__name__ == "some_package.own_family"
    assert list(registry.names("families")) == sorted(registry.names("families"))


def test_a_plug_in_of_the_other_kind_is_not_found(plug: Plug):
    plug("backends", "own", own_family())
    assert "own" not in registry.names("families")
    assert "own" in registry.names("backends")


def test_a_plug_in_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch):
    broken = EntryPoints([EntryPoint("gone", "no_such_package.module", "eyas.families")])
    monkeypatch.setattr(registry, "entry_points", lambda group: broken.select(group=group))
    with pytest.raises(OptionError) as caught:
        registry.get("families", "gone")
    for word in ("plug-in gone cannot be imported", "no_such_package", "eyas.families", "Mend or uninstall"):
        assert word in str(caught.value)
    assert registry.get("families", "yolox")


# ---- contracts: families ----


def wanted_functions(protocol: type) -> dict[str, inspect.Signature]:
    """name → signature of what a plug-in must define, without self."""
    found = {}
    for name, function in inspect.getmembers(protocol, inspect.isfunction):
        if not name.startswith("_"):
            signature = inspect.signature(function)
            found[name] = signature.replace(parameters=list(signature.parameters.values())[1:])
    return found


def assert_keeps_to(module: Any, protocol: type) -> None:
    wanted = wanted_functions(protocol)
    assert wanted
    for name, signature in wanted.items():
        function = getattr(module, name, None)
        assert inspect.isfunction(function), f"{module.__name__} lacks {name}{signature}"
        assert function.__doc__, f"{module.__name__}.{name} says nothing of itself"
        mine = inspect.signature(function)
        assert list(mine.parameters.values()) == list(signature.parameters.values()), f"{module.__name__}.{name}"


@pytest.mark.parametrize("name", BUILT_IN["families"])
def test_a_family_has_the_functions_of_its_protocol(name: str):
    module = registry.get("families", name)
    assert_keeps_to(module, Family)
    hints = {f: inspect.signature(getattr(module, f)).return_annotation for f in wanted_functions(Family)}
    assert hints["recognise"] == "list[Guess]"
    assert hints["decode"] in wanted_functions(Family)["decode"].return_annotation.split(" | ")


@pytest.mark.parametrize("name", BUILT_IN["families"])
@pytest.mark.parametrize("kind", zoo.KINDS)
def test_a_family_recognises_its_own_and_changes_nothing(name: str, kind: str):
    facts = facts_of(zoo.network(kind))
    before = json.dumps([facts.input_shape, dict(facts.outputs)])
    guesses = families.family(name).recognise(facts)
    assert isinstance(guesses, list)
    assert all(isinstance(g, Guess) and (g.classes is None or g.classes >= 1) for g in guesses)
    assert any(g.classes == 3 for g in guesses) is (zoo.KINDS[kind][0] == name)
    assert json.dumps([facts.input_shape, dict(facts.outputs)]) == before
    for guess in guesses:
        json.dumps(guess.params)


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_a_decode_makes_the_cells_that_it_promises(kind: str):
    model = zoo.network(kind, size=(96, 64))
    family_name, strides, _ = zoo.KINDS[kind]
    facts = facts_of(model)
    from eyas.card import settle_card

    card = settle_card(facts, family_name=family_name, names=NAMES)
    g = Builder(model, "head")
    cells = families.family(family_name).decode(g, card, facts)
    assert (cells.count, cells.classes) == (cells_at((96, 64), strides), 3)
    scores, boxes, _ = cells.pick(g.const(np.zeros((1, 2)), "int64"))
    wanted = {cells.scores: 3, scores: 3, boxes: 3} | ({cells.objectness: 2} if cells.objectness else {})
    model.graph.node.extend(g.nodes)
    model.graph.initializer.extend(g.initializers)
    del model.graph.input[0].type.tensor_type.shape.dim[0]
    model.graph.input[0].type.tensor_type.shape.dim.insert(0, onnx.TensorShapeProto.Dimension(dim_value=1))
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    for edge, rank in wanted.items():
        assert len(shapes[edge]) == rank
        assert types[edge] == onnx.TensorProto.FLOAT
    assert shapes[boxes] == [1, 2, 4]
    assert shapes[cells.scores][cells.class_axis] == shapes[scores][cells.class_axis] == 3
    assert shapes[cells.scores][3 - cells.class_axis] == cells.count
    assert shapes[scores][3 - cells.class_axis] == 2


def test_grids_run_row_by_row_and_count_partial_cells():
    points, steps = grid((40, 70), (32, 16), 0.5)
    assert len(points) == len(steps) == cells_at((40, 70), (32, 16)) == 2 * 3 + 3 * 5
    assert points[:4].tolist() == [[16, 16], [48, 16], [80, 16], [16, 48]]
    assert points[6].tolist() == [8, 8]
    assert steps.ravel().tolist() == [32] * 6 + [16] * 15
    assert points.dtype == steps.dtype == np.float32


# ---- contracts: backends ----


@pytest.mark.parametrize("name", BUILT_IN["backends"])
def test_a_backend_has_the_functions_of_its_protocol(name: str):
    module = registry.get("backends", name)
    assert_keeps_to(module, Backend)
    assert module.missing() is None or "pip install" in module.missing()


def network(batch: int | str = "batch") -> onnx.ModelProto:
    from eyas.build import Network
    from eyas.card import settle_card

    model = zoo.network("nanodet-8", size=(96, 64), batch=batch)
    card = settle_card(facts_of(model), family_name="nanodet", names=NAMES)
    return deploy_graph(Network(model, facts_of(model), card), HeadSpec(20))


@pytest.fixture(params=BUILT_IN["backends"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend whose runtime is installed."""
    if registry.get("backends", request.param).missing():
        pytest.skip(f"the runtime of {request.param} is not installed")
    yield backend(request.param)  # noqa: PT022


def assert_outputs(outputs: Outputs, batch: int) -> None:
    assert list(outputs) == ["detections", "count", "converged"]
    assert (outputs["detections"].dtype, outputs["detections"].shape) == (np.float32, (batch, 20, 6))
    assert (outputs["count"].dtype, outputs["count"].shape) == (np.int32, (batch,))
    assert (outputs["converged"].dtype, outputs["converged"].shape) == (np.bool_, (batch,))
    assert ((outputs["count"] >= 0) & (outputs["count"] <= 20)).all()


def test_a_backend_says_what_it_is(runtime: Backend):
    assert runtime.version()[0].isdigit()
    fitness = runtime.fitness()
    assert isinstance(fitness, Fitness)
    assert fitness.rank >= 0
    assert fitness.reason


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_an_engine_keeps_to_its_protocol(runtime: Backend, hint: Any):
    engine = runtime.open_engine(network(), BuildSpec("fp32", (1, 5, 5), hint))
    for name, signature in wanted_functions(Engine).items():
        mine = inspect.signature(getattr(engine, name))
        assert list(mine.parameters) == list(signature.parameters), name
    assert isinstance(engine.parallel, int)
    assert engine.parallel >= 1
    assert engine.description
    assert "\n" not in engine.description
    images, limits = zoo.pictures(5, (96, 64)), np.tile(np.array([[0.4, 0.5]], np.float32), (5, 1))
    images.flags.writeable = limits.flags.writeable = False  # only read
    five = engine.infer({"images": images, "thresholds": limits})
    assert_outputs(five, 5)
    kept = five["detections"].copy()
    one = engine.infer({"images": images[:1], "thresholds": limits[:1]})
    assert_outputs(one, 1)
    np.testing.assert_array_equal(five["detections"], kept, err_msg="results are the caller's own")
    n = one["count"][0]
    np.testing.assert_allclose(one["detections"][0, :n], five["detections"][0, : five["count"][0]], atol=2e-3)
    engine.close()


def test_a_graph_fixed_to_two_pictures_serves_five(runtime: Backend):
    images = zoo.pictures(5, (96, 64))
    limits = np.array([[0, 1], [0.2, 0.7], [0.4, 0.5], [0.6, 0.5], [1, 0.5]], np.float32)
    free = runtime.open_engine(network(), BuildSpec("fp32", (1, 5, 5)))
    stuck = runtime.open_engine(network(2), BuildSpec("fp32", (2, 2, 2)))
    feeds = {"images": images, "thresholds": limits}
    want, got = free.infer(feeds), stuck.infer(feeds)
    assert_outputs(got, 5)
    np.testing.assert_array_equal(got["count"], want["count"])
    np.testing.assert_array_equal(got["converged"], want["converged"])
    for i in range(5):
        n = got["count"][i]
        np.testing.assert_allclose(got["detections"][i, :n], want["detections"][i, :n], atol=2e-3)
    assert got["count"][4] == 0
    assert got["count"][0] > 0
    free.close()
    stuck.close()


def test_a_precision_that_the_device_lacks(runtime: Backend, monkeypatch: pytest.MonkeyPatch):
    if "null" in runtime.__name__:  # type: ignore[attr-defined]
        pytest.skip("null computes nothing")
    if "openvino" in runtime.__name__:  # type: ignore[attr-defined]
        monkeypatch.setattr(runtime, "_capabilities", lambda core, device: {"fp32": "f32"})
    with pytest.raises(BackendError, match=r"cannot run fp16: got --precision fp16; expected auto \| fp32\. Leave"):
        runtime.open_engine(network(), BuildSpec("fp16"))


def test_a_graph_that_is_no_deploy_graph(runtime: Backend):
    if "null" in runtime.__name__:  # type: ignore[attr-defined]
        pytest.skip("null reads no graph")
    broken = network()
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(BackendError, match=r"(?s)refuses the model: got .*; expected a graph it can run"):
        runtime.open_engine(broken, BuildSpec("fp32"))


# ---- choosing ----


def fake_backend(name: str, rank: int = 0, pip: str | None = None, error: Exception | None = None) -> ModuleType:
    module = ModuleType(f"some_package.{name}", "A backend of somebody else.")

    def fitness() -> Fitness:
        if error:
            raise error
        return Fitness(rank, "because")

    module.missing, module.version, module.fitness = (lambda: pip), (lambda: "9.9"), fitness  # type: ignore[attr-defined]
    return module


def test_the_fittest_backend_is_chosen_and_null_never_unasked(plug: Plug):
    best = candidates()
    assert [c.rank for c in best] == sorted((c.rank for c in best), reverse=True)
    assert choose()[0] == best[0].name != "null"
    plug("backends", "mine", fake_backend("mine", 1000))
    assert candidates()[0] == Candidate("mine", "9.9", 1000, "because")
    assert choose()[0] == "mine"
    assert choose("null")[0] == "null"


def test_a_backend_that_is_missing_or_broken_hides_no_other(plug: Plug):
    plug("backends", "absent", fake_backend("absent", 1000, pip="pip install absent"))
    plug("backends", "broken", fake_backend("broken", 1000, error=OSError("libbroken.so: cannot open")))
    lines = {c.name: c for c in candidates()}
    assert lines["absent"].reason == "not installed: pip install absent"
    assert lines["broken"].reason == "broken: libbroken.so: cannot open"
    assert choose()[0] not in ("absent", "broken")
    with pytest.raises(BackendError, match=r"backend absent is not installed.*pip install absent"):
        backend("absent")


def test_without_any_backend_the_error_names_one_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "candidates", lambda: [Candidate("null", "1", 0, "finds nothing")])
    with pytest.raises(BackendError, match=r"no backend is installed: got none; expected at least one\. pip install"):
        choose()


# ---- steps ----


@pytest.mark.parametrize(("count", "fixed", "steps"), [(5, 2, [2, 2, 2]), (4, 2, [2, 2]), (1, 4, [4]), (5, None, [5])])
def test_a_fixed_batch_is_filled_up_and_what_that_adds_is_cut_off(count: int, fixed: int | None, steps: list[int]):
    seen: list[int] = []

    def run(feeds: Feeds) -> dict[str, np.ndarray]:
        images, limits = feeds["images"], feeds["thresholds"]
        assert len(images) == len(limits)
        seen.append(len(images))
        first = images[:, 0, 0, 0]
        detections = np.repeat(first.astype(np.float32)[:, None, None], 6, axis=2) + limits[:, :1, None]
        return {"detections": detections, "count": first.astype(np.int32), "converged": limits[:, 0] > 2}

    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    limits = np.arange(count, dtype=np.float32)[:, None].repeat(2, axis=1)
    outputs = infer_in_steps(run, {"images": images, "thresholds": limits}, fixed)
    assert seen == steps
    assert outputs["count"].tolist() == list(range(count))
    assert outputs["detections"][:, 0, 0].tolist() == [2 * i for i in range(count)]
    assert outputs["converged"].tolist() == [i > 2 for i in range(count)]
