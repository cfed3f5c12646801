"""Engine files: what is checked before a plan is loaded, what a mismatch leads to, and that nothing is ever lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from conftest import BUNDLED, SAMPLES

import eyas
from eyas import registry
from eyas.backends import Fitness, null
from eyas.build import Network, deploy_graph
from eyas.card import settle_card
from eyas.engines import cache, lock
from eyas.engines.build import Recipe, build_file
from eyas.engines.folder import cache_folder, signing_key
from eyas.engines.foreign import split_prefixed
from eyas.engines.lock import locked
from eyas.engines.open import is_engine, open_file
from eyas.engines.sidecar import graph_path, read_sidecar, sidecar_path
from eyas.errors import BackendError, ModelError, OptionError, SinkError
from eyas.graph.head import HeadSpec
from eyas.graph.network import facts_of
from eyas.types import BuildSpec

PICTURE = str(SAMPLES / "chelsea.jpg")
NAMES = ("ant", "bee", "cow")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def deploy() -> onnx.ModelProto:
    model = zoo.network("nanodet-8", size=(96, 64))
    card = settle_card(facts_of(model), family_name="nanodet", names=NAMES)
    return deploy_graph(Network(model, facts_of(model), card), HeadSpec(20))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A backend of version 1 on device "here": null, with a plan of its own, that counts what it is asked for."""
    fake: Any = ModuleType("some_package.fake", "A backend.")
    fake.CACHED, fake.at, fake.device, fake.built, fake.loaded = True, "1.0", "here", 0, 0

    def compile_(model: onnx.ModelProto, spec: BuildSpec) -> bytes:
        fake.built += 1
        return bytes(null.compile(model, spec))

    def load(plan: bytes, spec: BuildSpec) -> Any:
        fake.loaded += 1
        fake.spec = spec
        return null.load_engine(plan, spec)

    fake.missing, fake.version, fake.fitness = (lambda: None), (lambda: fake.at), (lambda: Fitness(1, "a fake"))
    fake.compile, fake.load_engine, fake.open_engine = compile_, load, null.open_engine
    fake.device_key = lambda spec: fake.device
    monkeypatch.setitem(sys.modules, "some_package.fake", fake)
    plain = registry.names
    monkeypatch.setattr(registry, "names", lambda kind: plain(kind) | {"fake": "some_package.fake"})
    return fake


def recipe(module: Any, **spec: Any) -> Recipe:
    return Recipe("fake", module, deploy(), HeadSpec(20), BuildSpec(**spec), "some/where/small.onnx", "ab" * 32)


@pytest.fixture
def engine(module: Any, tmp_path: Path) -> Path:
    build_file(recipe(module), tmp_path / "small.plan")
    return tmp_path / "small.plan"


def sign_as_somebody_else(plan: Path) -> None:
    sidecar_path(plan).write_bytes(replace(read_sidecar(plan), signature="00" * 32).to_bytes())


# ---- written and opened ----


def test_three_files_and_what_they_hold(engine: Path, tmp_path: Path):
    assert engine.read_bytes() == null.compile(deploy(), BuildSpec()), "the plain plan, nothing glued to it"
    assert graph_path(engine).read_bytes() == deploy().SerializeToString(deterministic=True)
    sidecar = json.loads(sidecar_path(engine).read_bytes())
    assert (sidecar["format"], sidecar["backend"], sidecar["backend_version"]) == (1, "fake", "1.0")
    assert (sidecar["model"], sidecar["model_sha256"], sidecar["device_key"]) == ("small.onnx", "ab" * 32, "here")
    assert sidecar["card"]["family"] == "nanodet"
    assert sidecar["inputs"]["images"] == ["uint8", ["batch", 96, 64, 3]]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cache",
        "small.plan",
        "small.plan.graph.onnx",
        "small.plan.json",
    ]


def test_an_engine_is_opened_and_predicts(engine: Path, module: Any):
    assert is_engine(engine)
    with eyas.load(engine) as model:
        assert model.card.names == NAMES
        assert model.digest == "ab" * 32
        assert len(model.predict(np.full((96, 64, 3), 255, np.uint8))) == 1
        assert [len(r) for r in model.predict([np.full((96, 64, 3), 255, np.uint8)] * 3)] == [1, 1, 1]
    assert (module.built, module.loaded) == (1, 1)


@pytest.mark.parametrize(("backend", "suffix"), [("openvino", "blob"), ("onnxruntime", "onnx"), ("null", "plan")])
def test_every_backend_on_a_cpu_writes_and_opens(backend: str, suffix: str, tmp_path: Path):
    pytest.importorskip("onnxruntime" if backend == "onnxruntime" else "onnx")
    from eyas.cli import main

    out = tmp_path / f"nano.{suffix}"
    assert main(["build", "nanodet", "--backend", backend, "--precision", "auto", "--batch", "2", "-o", str(out)]) == 0
    with eyas.load(out) as built, eyas.load("nanodet", backend=backend, batch=2) as fresh:
        a, b = built.predict(PICTURE), fresh.predict(PICTURE)
        assert a.class_name == b.class_name
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-3)
        assert [r.class_name for r in built.predict([PICTURE] * 3)] == [b.class_name] * 3


def test_settings_that_are_built_in_are_refused(engine: Path):
    with pytest.raises(OptionError, match=r"is a built engine: got precision, max_det; expected only what"):
        eyas.load(engine, precision="fp16", max_det=10)


def test_a_model_without_a_sidecar_of_ours_is_still_a_model(tmp_path: Path):
    assert not is_engine(BUNDLED)
    assert not is_engine(Path("x" * 5000))
    model = tmp_path / "voice.onnx"
    model.write_bytes(BUNDLED.read_bytes())
    sidecar_path(model).write_text('{"sample_rate": 16000}')
    assert not is_engine(model)
    with eyas.load(model, backend="null") as opened:
        assert opened.card.family == "nanodet"


# ---- trust ----


def test_a_sidecar_of_somebody_else_is_refused_before_anything_is_loaded(
    engine: Path, module: Any, caplog: pytest.LogCaptureFixture
):
    sign_as_somebody_else(engine)
    with pytest.raises(ModelError, match=r"not signed here; .*executable code.*--trust"):
        eyas.load(engine)
    assert module.loaded == 0
    with eyas.load(engine, trust=True):
        assert module.loaded == 1
    assert "is trusted because you say so" in caplog.text


def test_another_key_is_somebody_else(engine: Path, module: Any, folder: Path):
    (folder / "key").unlink()
    with pytest.raises(ModelError, match="not signed here"):
        eyas.load(engine)


@pytest.mark.parametrize("field", ["backend", "device_key", "plan_sha256", "model", "seconds", "card", "spec"])
def test_every_field_is_under_the_signature(engine: Path, module: Any, field: str):
    values = json.loads(sidecar_path(engine).read_bytes())
    old = values[field]
    values[field] = old + 1 if isinstance(old, float) else {**old, "x": 1} if isinstance(old, dict) else old + "x"
    sidecar_path(engine).write_text(json.dumps(values))
    with pytest.raises(ModelError, match="not signed here"):
        eyas.load(engine)
    assert module.loaded == 0


def test_trust_does_not_help_a_damaged_plan(engine: Path, module: Any):
    plan = bytearray(engine.read_bytes())
    plan[len(plan) // 2] ^= 1
    engine.write_bytes(plan)
    for trust in (False, True):
        with pytest.raises(ModelError, match="other bytes than were built"):
            eyas.load(engine, trust=trust)
    engine.write_bytes(plan[:100])
    with pytest.raises(ModelError, match=r"got 100 bytes; expected \d+, as its sidecar says"):
        eyas.load(engine)
    assert module.loaded == 0


def test_plug_ins_of_an_untrusted_sidecar_are_not_loaded(module: Any, tmp_path: Path):
    out = tmp_path / "with.plan"
    build_file(recipe(module, options={"plugins": ["/tmp/lib.so"], "refit": True}), out)  # noqa: S108
    open_file(out)
    assert module.spec.options == {"plugins": ["/tmp/lib.so"], "refit": True}  # noqa: S108
    sign_as_somebody_else(out)
    open_file(out, trust=True)
    assert module.spec.options == {"refit": True}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be used"),
        (b"[]", "an object with `format`"),
        (b'{"format": 2}', r"got format 2; expected format 1\. A newer eyas"),
        (b'{"format": 1}', "the fields of a sidecar"),
        (b" " * (5 << 20), "at most"),
        (b"[" * 100_000, "expected JSON"),
    ],
)
def test_a_sidecar_that_is_none(engine: Path, module: Any, content: bytes, said: str):
    sidecar_path(engine).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        eyas.load(engine, trust=True)


def test_an_engine_without_sidecar_or_file(engine: Path, module: Any, tmp_path: Path):
    sidecar_path(engine).unlink()
    with pytest.raises(ModelError, match=r"no sidecar beside it; expected small\.plan\.json.*eyas build"):
        eyas.load(engine, trust=True)
    with pytest.raises(ModelError, match="no such file"):
        eyas.load(tmp_path / "gone.engine")


def test_the_key_and_the_folder_are_private(folder: Path):
    key = signing_key()
    assert len(key) == 32
    assert signing_key() == key
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    folder.chmod(0o755)
    cache_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "key").chmod(0o644)
    with pytest.raises(SinkError, match="readable by others"):
        signing_key()


def test_metadata_before_a_plan_is_split_off():
    said = json.dumps({"stride": 32, "names": {"0": "ant"}}).encode()
    prefixed = len(said).to_bytes(4, "little", signed=True) + said + b"ftrt plan"
    assert split_prefixed(prefixed) == ({"stride": 32, "names": {"0": "ant"}}, b"ftrt plan")
    for other in (b"", b"ftrt plan", b"\xff\xff\xff\xff{}", b"\x02\0\0\0[]plan", b"\x40\0\0\0{}", prefixed[:20]):
        assert split_prefixed(other) is None


# ---- another version or device ----


@pytest.mark.parametrize(("what", "value"), [("at", "2.0"), ("device", "elsewhere")])
def test_a_mismatch_is_built_again_with_a_message(
    engine: Path, module: Any, what: str, value: str, caplog: pytest.LogCaptureFixture
):
    setattr(module, what, value)
    with pytest.raises(BackendError, match=rf"not for this machine: got .*; expected .*{value}"):
        eyas.load(engine, rebuild=False)
    assert (module.built, module.loaded) == (1, 0)
    with eyas.load(engine) as model:
        assert model.card.names == NAMES
    assert module.built == 2
    assert "building it again" in caplog.text
    assert value in sidecar_path(engine).read_text()
    with eyas.load(engine, rebuild=False):
        assert module.built == 2


def test_a_version_compatible_plan_lasts_for_its_major(module: Any, tmp_path: Path):
    out = tmp_path / "vc.plan"
    build_file(recipe(module, options={"version_compatible": True}), out)
    module.at = "1.4"
    open_file(out, rebuild=False)
    module.at = "2.0"
    with pytest.raises(BackendError, match="not for this machine"):
        open_file(out, rebuild=False)


def test_without_its_graph_it_cannot_be_built_again(engine: Path, module: Any):
    module.at = "2.0"
    graph_path(engine).write_bytes(b"another")
    with pytest.raises(ModelError, match="another graph"):
        eyas.load(engine)
    graph_path(engine).unlink()
    with pytest.raises(ModelError, match="Build it from its model"):
        eyas.load(engine)
    assert module.built == 1


def test_where_the_new_engine_cannot_be_kept_it_is_used(
    engine: Path, module: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    module.at = "2.0"
    before = {p.name: p.read_bytes() for p in engine.parent.glob("small*")}
    _full_disk(monkeypatch, engine.parent)
    with eyas.load(engine):
        assert module.built == 2
    assert "used, but not kept" in caplog.text
    assert {p.name: p.read_bytes() for p in engine.parent.glob("small*")} == before


# ---- disks, processes ----


def _full_disk(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    plain = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        if path.parent == folder:
            plain(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)


def test_a_full_disk_loses_nothing(engine: Path, module: Any, monkeypatch: pytest.MonkeyPatch):
    before = {p.name: p.read_bytes() for p in engine.parent.glob("*.*")}
    _full_disk(monkeypatch, engine.parent)
    with pytest.raises(SinkError, match=r"cannot write .*: got No space left on device"):
        build_file(recipe(module, hint="throughput"), engine)
    assert {p.name: p.read_bytes() for p in engine.parent.glob("*.*")} == before
    assert not list(engine.parent.glob(".eyas*"))


def test_a_place_that_cannot_be_written(module: Any, tmp_path: Path):
    for out in (tmp_path, tmp_path / "no" / "folder.plan"):
        with pytest.raises(OptionError, match="no file to write an engine to"):
            build_file(recipe(module), out)
    assert module.built == 0


BUILD = """
import sys, time
from pathlib import Path
from eyas.backends import null
from eyas.cli import main
plain = null.compile
def slow(model, spec):
    Path(sys.argv[2]).open("a").write("built ")
    time.sleep(float(sys.argv[3]))
    return plain(model, spec)
null.compile = slow
sys.exit(main(["build", "nanodet", "--backend", "null", "-o", sys.argv[1]]))
"""


def _start(out: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(Path(eyas.__file__).parents[1])}
    command = [sys.executable, "-c", BUILD, str(out), str(log), str(seconds)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def _wait_for(log: Path) -> None:
    end = time.monotonic() + 30
    while not log.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert log.exists()


@pytest.mark.slow
def test_two_processes_take_turns(tmp_path: Path):
    out, log = tmp_path / "nano.plan", tmp_path / "log"
    first = _start(out, log, 1.5)
    _wait_for(log)
    second = _start(out, tmp_path / "log2", 0)
    heard = second.communicate(timeout=60)[1], first.communicate(timeout=60)[1]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "another process is building nano.plan: waiting for it" in heard[0]
    open_file(out).engine.close()


@pytest.mark.slow
def test_a_builder_that_is_killed_leaves_the_old_engine_and_no_lock(tmp_path: Path):
    out, log = tmp_path / "nano.plan", tmp_path / "log"
    first = _start(out, tmp_path / "log0", 0)
    first.communicate(timeout=60)
    assert first.returncode == 0
    before = out.read_bytes(), sidecar_path(out).read_bytes()
    killed = _start(out, log, 60)
    _wait_for(log)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    assert (out.read_bytes(), sidecar_path(out).read_bytes()) == before
    open_file(out).engine.close()
    with locked(out, patience_s=1):
        pass


@pytest.mark.parametrize("kernel", [True, False])
def test_a_lock_is_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool):
    if not kernel:
        monkeypatch.setattr(lock, "fcntl", None)
    with locked(tmp_path / "x"):
        with locked(tmp_path / "y"):
            pass
        with pytest.raises(SinkError, match="is being built by another process"), locked(tmp_path / "x", 0.2):
            pass
    with locked(tmp_path / "x", 0.2):
        pass


def test_without_kernel_locks_a_dead_holder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path):
    monkeypatch.setattr(lock, "fcntl", None)
    with locked(tmp_path / "x"):
        (held,) = folder.glob("*.held")
        host, number = held.read_text().split()
        assert int(number) == os.getpid()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    held.write_text(f"{host} {child.pid}")
    with locked(tmp_path / "x", 0.2):
        pass
    held.write_text(f"another-host {child.pid}")
    with pytest.raises(SinkError), locked(tmp_path / "x", 0.2):
        pass


# ---- the cache ----


def test_the_second_load_compiles_nothing(module: Any, folder: Path):
    for _ in range(2):
        cache.open_cached(recipe(module))
    assert (module.built, module.loaded) == (1, 2)
    (plan,) = folder.glob("*.plan")
    assert not graph_path(plan).exists()


@pytest.mark.parametrize("change", ["spec", "version", "device", "graph"])
def test_whatever_matters_is_in_the_key(module: Any, change: str):
    one = recipe(module)
    before = cache.cache_key(one)
    assert cache.cache_key(recipe(module)) == before
    other = one
    if change == "spec":
        other = recipe(module, hint="throughput")
    elif change == "version":
        module.at = "1.1"
    elif change == "device":
        module.device = "there"
    else:
        other.graph.graph.node[0].name += "x"
    assert cache.cache_key(other) != before


@pytest.mark.parametrize("harm", ["plan", "sidecar", "signature"])
def test_a_damaged_entry_is_built_again(module: Any, folder: Path, harm: str, caplog: pytest.LogCaptureFixture):
    cache.open_cached(recipe(module))
    (plan,) = folder.glob("*.plan")
    if harm == "plan":
        plan.write_bytes(b"other")
    elif harm == "sidecar":
        sidecar_path(plan).unlink()
    else:
        sign_as_somebody_else(plan)
    cache.open_cached(recipe(module))
    assert module.built == 2
    assert "a cached engine is built again" in caplog.text
    cache.open_cached(recipe(module))
    assert module.built == 2


def test_a_cache_that_cannot_be_used_costs_only_time(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "file" / "cache"))
    assert cache.open_cached(recipe(module))
    assert "engines are not kept" in caplog.text


def test_backends_that_compile_quickly_are_not_cached(folder: Path):
    cache.open_cached(Recipe("null", null, deploy(), HeadSpec(20), BuildSpec()))
    assert not folder.exists()


def test_a_backend_that_cannot_run_here_says_so_before_it_builds(module: Any):
    module.fitness = lambda: Fitness(-1, "no GPU")
    cache.open_cached(recipe(module))
    assert module.built == 0


def test_load_uses_the_cache(module: Any, folder: Path):
    for _ in range(2):
        with eyas.load("nanodet", backend="fake") as model:
            model.engine()
    assert (module.built, module.loaded) == (1, 2)


def _entries(module: Any) -> list[Path]:
    """Three engines, used 1, 10 and 100 days ago."""
    found = []
    for days, hint, device in ((1, "latency", "a"), (10, "throughput", "b"), (100, "latency", "c")):
        module.device = device
        cache.open_cached(recipe(module, hint=hint))
        plan = next(p for p in cache_folder().glob("*.plan") if p not in found)
        os.utime(plan, (time.time() - days * 86400,) * 2)
        found.append(plan)
    return found


def test_list_and_prune_by_age(module: Any):
    plans = _entries(module)
    assert [e.path for e in cache.entries()] == plans
    gone = cache.prune(older_than_s=30 * 86400.0)
    assert set(gone) == {plans[2], sidecar_path(plans[2])}
    assert [e.path for e in cache.entries()] == plans[:2]


def test_prune_by_size_keeps_the_most_recently_used(module: Any, folder: Path):
    plans = _entries(module)
    cache.prune(max_size=cache.entries()[0].size)
    assert [e.path for e in cache.entries()] == plans[:1]
    cache.prune(max_size=0)
    assert cache.entries() == []
    assert (folder / "key").exists()


def test_prune_tidies_what_dead_processes_left(module: Any, folder: Path):
    cache.open_cached(recipe(module))
    old = [folder / ".eyas-0123.part", folder / "feed.plan", folder / "feed.plan.json", folder / "feed.lock"]
    new = folder / ".eyas-4567.part"
    for path in (*old, new):
        path.touch()
    for path in old:
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    assert set(cache.prune(max_size=10**12)) == set(old)
    assert new.exists()
    assert len(cache.entries()) == 1
