"""Repairs are proved or undone; patterns that look alike are left alone; rules of others come through the same door."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType

import defects
import numpy as np
import onnx
import pytest
from conftest import ROOT
from defects import base, behind, insert, node, on_features, put
from onnx import helper, numpy_helper

from eyas import extras, registry
from eyas.doctor import proof
from eyas.doctor.check import examine, rules
from eyas.doctor.proof import Reference, Unequal
from eyas.doctor.repair import repair
from eyas.doctor.rule import Rule
from eyas.doctor.table import markdown
from eyas.errors import EyasError, OptionError

Plug = Callable[..., None]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Install rules as a third party's."""

    def install(*own: Rule) -> None:
        module = ModuleType("some_package.own_rules", "Rules of somebody else.")
        module.RULES = own  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        points = EntryPoints([EntryPoint("own_rules", module.__name__, "eyas.rules")])
        monkeypatch.setattr(registry, "entry_points", lambda **wanted: points.select(**wanted))

    return install


def rule(**changes: object) -> Rule:
    """A rule of somebody else's that always finds something."""
    fields = {"id": "X900", "title": "t", "severity": "warning", "why": "w", "remedy": "r"}
    return Rule(**{**fields, "check": lambda s: [("here", "something")], **changes})  # type: ignore[arg-type]


def scale_weights(factor: float) -> Callable[[onnx.ModelProto], bool]:
    def change(model: onnx.ModelProto) -> bool:
        put(model, "two/w", defects.weight(model, "two/w") * np.float32(factor))
        return True

    return change


# ---- proof ----


def test_a_repair_that_changes_the_results_is_undone(plug: Plug):
    plug(rule(repair=scale_weights(1.001)))
    model = base()
    repaired = repair(model)
    assert not repaired.done
    assert repaired.model.SerializeToString() == model.SerializeToString()
    (undone,) = repaired.undone
    assert undone.rule == "X900"
    assert re.fullmatch(r"output output0 differs by \S+", undone.reason)


def test_what_is_allowed_is_the_rules_own_tolerance(plug: Plug):
    plug(rule(repair=scale_weights(1 + 1e-6), tolerance=1e-4))
    (done, *_) = repair(base()).done
    assert done.proof is not None
    assert 0 < done.proof.largest < 1e-4
    plug(rule(repair=scale_weights(1 + 1e-6)))
    assert not repair(base()).done


def test_a_repair_never_runs_for_ever(plug: Plug):
    plug(rule(repair=lambda model: put(model, "two/w", defects.weight(model, "two/w")) != ""))
    repaired = repair(base())
    assert len(repaired.done) == 3
    assert [f.rule for f in repaired.left] == ["X900"]


def crash(model: onnx.ModelProto) -> bool:
    del model.graph.node[:]
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("change", "reason"), [(crash, "no such thing"), (lambda model: False, "the pattern is not one")]
)
def test_a_repair_that_fails_leaves_the_model_and_others_alone(
    plug: Plug, change: Callable[[onnx.ModelProto], bool], reason: str, tmp_path: Path
):
    plug(rule(repair=change))
    path = defects.DEFECTS["dead_nodes"].make(tmp_path)
    repaired = repair(onnx.load(path), path)
    assert [d.rule for d in repaired.done] == ["D311"]
    assert [u.rule for u in repaired.undone] == ["X900"]
    assert repaired.undone[0].reason.startswith(reason)


def test_a_network_that_does_not_run_is_not_touched(plug: Plug):
    plug()
    model = defects.base()
    behind(model, helper.make_node("HSwishPlugin", ["raw"], ["output0"], "custom"), shape=defects.OUT)
    put(model, "anchors", np.ones(3), np.float32)
    repaired = repair(model)
    assert not repaired.done
    assert [u.rule for u in repaired.undone] == ["D312"]
    assert "ONNX Runtime refuses the network itself" in repaired.undone[0].reason


def test_the_proof_sees_a_difference_in_one_value_of_one_picture():
    model = base()
    other = base()
    bias = np.zeros((3, 6, 256), np.float32)
    bias[2, 5, 255] = 1e-6
    behind(other, helper.make_node("Add", ["raw", put(other, "bias", bias)], ["output0"]), shape=defects.OUT)
    with pytest.raises(Unequal, match=r"output output0 is \[3, 6, 256\], was \[1, 6, 256\]"):
        Reference(model).compare(other, 0)
    bias = np.zeros((1, 6, 256), np.float32)
    bias[0, 5, 255] = 1e-6
    put(other, "bias", bias)
    with pytest.raises(Unequal, match="differs by"):
        Reference(model).compare(other, 0)
    put(other, "bias", 0 * bias)
    done = Reference(model).compare(other, 0)
    assert (done.pictures, done.batches, done.largest) == (6, (1, 2, 3), 0)


def test_nan_equals_nan_and_nothing_else():
    one = {"y": np.array([1, np.nan, np.inf])}
    assert proof._difference(one, one, 0) == 0
    for other in ([1, 2, np.inf], [1, np.nan, -np.inf], [np.nan, np.nan, np.inf]):
        with pytest.raises(Unequal):
            proof._difference(one, {"y": np.array(other)}, 1e-3)


def test_without_onnx_runtime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    real = extras.import_module

    def refuse(name: str) -> object:
        if name.split(".")[0] == "onnxruntime":
            raise ImportError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(extras, "import_module", refuse)
    path = defects.DEFECTS["dead_nodes"].make(tmp_path)
    assert [f.rule for f in examine(onnx.load(path), path)] == ["D311", "D311"]
    with pytest.raises(EyasError, match=r"pip install 'eyas\[ort\]'"):
        repair(onnx.load(path), path)


def test_without_onnxslim_the_rest_is_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    path = defects.DEFECTS["a_target_computed_from_shapes"].make(tmp_path)
    model = onnx.load(path)
    put(model, "anchors", np.ones(3), np.float32)
    repaired = repair(model)
    assert [d.rule for d in repaired.done] == ["D312"]
    assert "pip install 'eyas[doctor]'" in repaired.undone[0].reason


def test_many_defects_at_once():
    model = defects.normalised()
    put(model, "anchors", np.ones(3), np.float32)
    put(model, "target", [1, 6, -1], np.int64)
    on_features(model, helper.make_node("Dropout", ["one/relu"], ["dropped"], "flat"), out="dropped")
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    repaired = repair(model)
    assert {d.rule for d in repaired.done} == {"D104", "D111", "D203", "D306", "D307", "D312"}
    assert repaired.left == ()
    assert repaired.proof is not None
    assert repaired.proof.largest < 1e-4
    onnx.checker.check_model(repaired.model, full_check=True)


# ---- what looks like a pattern and is none ----


def test_a_norm_whose_convolution_others_read_is_left_alone():
    model = defects.normalised()
    on_features(model, helper.make_node("Add", ["one/relu", "one"], ["sum"], "sum"), out="sum")
    assert examine(model) == []


def test_a_norm_with_computed_weights_is_left_alone():
    model = defects.normalised()
    insert(model, "bn", helper.make_node("Abs", ["bn/var"], ["var"], "abs"))
    node(model, "bn").input[4] = "var"
    assert examine(model) == []


def test_a_shared_convolution_weight_keeps_its_values():
    model = defects.normalised()
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "two/w"))
    insert(model, "two", helper.make_node("Conv", ["input", "one/w"], ["again"], "again", strides=[2, 2], pads=[1] * 4))
    node(model, "two").input[0] = "input"
    node(model, "two").input[1] = "one/w"
    insert(model, "join", helper.make_node("Add", ["one/relu", "again"], ["sum"], "sum"))
    node(model, "join").input[0] = "sum"
    node(model, "up").input[0] = "two/relu"
    put(model, "scales", [1, 1, 1, 1], np.float32)
    before = defects.weight(model, "one/w")
    repaired = repair(model)
    assert [d.rule for d in repaired.done] == ["D306"]
    np.testing.assert_array_equal(defects.weight(repaired.model, "one/w"), before)


def test_scattered_indices_that_are_no_block_are_only_found(tmp_path: Path):
    model = onnx.load(defects.DEFECTS["a_slice_assigned_in_place"].make(tmp_path))
    where = defects.weight(model, "where")
    put(model, "where", where[:, :, ::-1].copy())
    repaired = repair(model)
    assert "D310" in {f.rule for f in repaired.left}
    assert "D310" not in {d.rule for d in repaired.done}


def test_a_resize_whose_scale_would_not_give_the_size_is_only_found():
    sizes = ((i, o) for i in range(3, 60) for o in range(3, 200))
    into, out = next((i, o) for i, o in sizes if int(i * (np.float32(o) / np.float32(i))) < o)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], "up", mode="nearest")],
            "g",
            [defects.value("x", ["batch", 3, into, 8])],
            [defects.value("y", ["batch", 3, out, 16])],
            [numpy_helper.from_array(np.array([1, 3, out, 16]), "sizes")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    repaired = repair(model)
    assert [u.rule for u in repaired.undone] == ["D205"]


def test_a_zero_in_a_reshape_keeps_the_batch_and_is_fine():
    for target in ([0, 6, 256], [0, 6, -1], [-1, 6, 256]):
        model = base()
        put(model, "target", target, np.int64)
        assert examine(model) == []


def test_a_dropout_whose_mask_is_read_stays():
    model = base()
    drop = helper.make_node("Dropout", ["one/relu"], ["dropped", "mask"], "drop")
    keep = helper.make_node("Cast", ["mask"], ["kept"], "kept", to=1)
    both = helper.make_node("Mul", ["dropped", "kept"], ["product"], "product")
    on_features(model, drop, keep, both, out="product")
    assert examine(model) == []


def test_a_mask_of_minus_infinity_is_no_broken_weight():
    model = base()
    nodes = helper.make_node("Max", ["raw", put(model, "least", -np.inf, np.float32)], ["output0"])
    assert examine(behind(model, nodes, shape=defects.OUT)) == []


def test_how_new_an_opset_may_be_depends_on_the_backend():
    for opset, backend, rules_found in (
        (24, None, []),
        (24, "openvino", []),
        (27, None, ["D102"]),
        (22, "tensorrt", []),
    ):
        assert [f.rule for f in examine(base(opset=opset), None, backend)] == rules_found


def test_examining_changes_nothing():
    model = base(batch=1)
    before = model.SerializeToString(deterministic=True)
    examine(model)
    repair(model)
    assert model.SerializeToString(deterministic=True) == before


# ---- rules ----


@pytest.mark.parametrize("changes", [{"id": "900"}, {"id": "X9"}, {"severity": "fatal"}, {"tolerance": -1.0}])
def test_a_rule_that_is_not_well_formed(changes: dict[str, object]):
    with pytest.raises(OptionError, match="a doctor rule is not well formed"):
        rule(**changes)


def test_two_rules_of_one_id(plug: Plug):
    plug(rule(id="D101"))
    with pytest.raises(OptionError, match=r"two doctor rules have the same id: got D101; expected .*another letter"):
        rules()


def test_a_rule_that_fails_hides_no_other(plug: Plug, caplog: pytest.LogCaptureFixture):
    def fail(subject: object) -> list[tuple[str, str]]:
        raise KeyError("lost")

    plug(rule(check=fail))
    model = base()
    put(model, "anchors", np.ones(3), np.float32)
    assert [f.rule for f in examine(model)] == ["D312"]
    assert "rule X900 could not be asked: KeyError: 'lost'" in caplog.text


def test_rules_speak_in_sentences():
    for r in rules():
        assert r.why.endswith(".")
        assert r.remedy.endswith(".")
        assert not r.title.endswith(".")
        assert "|" not in r.title + r.why + r.remedy  # it is a table's
        if r.repair:
            text = getattr(r.repair, "__doc__", None)
            assert text, f"the repair of {r.id} does not state its pattern"


# ---- the pages ----


def test_the_table_in_the_docs_is_the_codes():
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert markdown() in page, "write it anew with `python -m eyas.doctor.table`"


def test_the_page_on_adding_a_rule_holds_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Its code, saved under the name and entry point that the page gives, finds and mends."""
    page = (ROOT / "docs" / "add-a-doctor-rule.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (name, target) = re.findall(r'^(\w+) = "your_package\.(\w+)"', page, re.MULTILINE)[0]
    assert 'entry-points."eyas.rules"' in page
    assert f"`{target}.py`" in page
    folder = tmp_path / "your_package"
    folder.mkdir()
    (folder / f"{target}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = EntryPoints([EntryPoint(name, f"your_package.{target}", "eyas.rules")])
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: points.select(**wanted))
    (added,) = {r.id for r in rules()} - {line[2:6] for line in markdown_without(name).splitlines()}
    model = base()
    assert examine(model) == []
    nodes = [helper.make_node("Neg", [a], [b], b) for a, b in (("one/relu", "n1"), ("n1", "n2"))]
    on_features(model, *nodes, out="n2")
    assert {f.rule for f in examine(model)} == {added}
    repaired = repair(model)
    assert [d.rule for d in repaired.done] == [added]
    assert repaired.left == ()
    assert [n.op_type for n in repaired.model.graph.node] == [n.op_type for n in base().graph.node]
    monkeypatch.delitem(sys.modules, f"your_package.{target}")
    monkeypatch.delitem(sys.modules, "your_package")


def markdown_without(name: str) -> str:
    """The table of the built-in rules alone."""
    done = subprocess.run([sys.executable, "-m", "eyas.doctor.table"], capture_output=True, text=True, check=True)
    return done.stdout
