"""eyas.predictor: what goes in comes out in order and in place, whatever fails, stops or runs at the same time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from conftest import SAMPLES
from numpy.typing import NDArray

import eyas
from eyas import loading, stages
from eyas import outputs as outputs_module
from eyas.backends import Feeds, null
from eyas.build import Network, open_network
from eyas.errors import DeadlineError, EyasError, ImageError, OptionError, SourceError
from eyas.nms import greedy_nms
from eyas.outputs import Outputs
from eyas.types import Image

CHELSEA = SAMPLES / "chelsea.jpg"
ALL = ["astronaut.jpg", "chelsea.jpg", "coffee.jpg"]


def grey(value: int, height: int = 8, width: int = 12) -> Image:
    """A picture in which `null` sees an object of confidence value / 255."""
    return np.full((height, width, 3), value, np.uint8)


def values(found: Any) -> list[int]:
    """The grey values that `null` saw, picture by picture."""
    return [round(float(d.confidence[0]) * 255) for d in found]


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Checks that the threads of the models that a test opens end with them."""
    before = set(threading.enumerate())
    yield
    assert [t for t in threading.enumerate() if t not in before and t.name.startswith("eyas")] == []


@pytest.fixture(scope="module")
def blank() -> Iterator[eyas.Model]:
    """`null` under the bundled network's card: 416 × 416, letterbox."""
    with eyas.load("nanodet", backend="null") as model:
        yield model


@pytest.fixture(scope="module")
def real() -> Iterator[eyas.Model]:
    with eyas.load("nanodet", precision="fp32") as model:
        yield model


TWO_INPUTS = onnx.helper.make_model(
    onnx.helper.make_graph(
        [], "", [onnx.helper.make_tensor_value_info(n, 1, None) for n in ("images", "thresholds")], []
    )
)


def rows(detections: NDArray[np.float32], count: NDArray[np.int32], converged: NDArray[np.bool_]) -> Outputs:
    return {"detections": detections, "count": count, "converged": converged}


def plain(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
    """What `null` gives for 300 rows."""
    outputs = {"detections": ((300, 6), np.float32), "count": ((), np.int32), "converged": ((), np.bool_)}
    return null.NullEngine(outputs).infer({"images": images, "thresholds": thresholds})


class FakeEngine:
    """Hands every call to a function of (images, thresholds), and keeps where the images lay."""

    description = "fake"

    def __init__(self, infer: Callable[[Image, NDArray[np.float32]], Outputs], parallel: int = 1) -> None:
        self.parallel = parallel
        self._infer = infer
        self.seen: dict[int, set[int]] = {}
        self.closed = self.calls = 0

    def infer(self, feeds: Feeds) -> Outputs:
        assert not self.closed
        self.calls += 1
        images = feeds["images"]
        self.seen.setdefault(threading.get_ident(), set()).add(images.ctypes.data)
        return self._infer(images, feeds["thresholds"])

    def close(self) -> None:
        self.closed += 1


@cache
def bundled() -> Network:
    return open_network("nanodet")


@pytest.fixture
def load_fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[eyas.Model, FakeEngine]]:
    """load_fake(infer=None, parallel=1, **options) → the model and the engine that it runs on."""

    def load(infer: Any = None, parallel: int = 1, **options: Any) -> tuple[eyas.Model, FakeEngine]:
        engine = FakeEngine(infer or plain, parallel)
        monkeypatch.setattr(null, "open_engine", lambda graph, spec: engine)
        monkeypatch.setattr(loading, "open_network", lambda *args, **more: bundled())
        monkeypatch.setattr(loading, "deploy_graph", lambda network, head: TWO_INPUTS)
        return eyas.load("nanodet", backend="null", **options), engine

    return load


# One picture


def test_one_picture_in_every_form_gives_the_same(real: eyas.Model) -> None:
    image = cv2.imread(str(CHELSEA))
    forms = [str(CHELSEA), CHELSEA, CHELSEA.read_bytes(), image, eyas.Frame(image)]
    found = [real.predict(form) for form in forms]
    for d in found:
        assert isinstance(d, eyas.Detections)
        assert d.class_name == ["cat"]
        np.testing.assert_array_equal(d.xyxy, found[0].xyxy)
        np.testing.assert_array_equal(d.confidence, found[0].confidence)
    assert found[0].xyxy.dtype == found[0].confidence.dtype == np.float32
    assert found[0].class_id.dtype == np.int64
    x1, y1, x2, y2 = found[0].xyxy[0]
    assert 0 <= x1 < 20
    assert 0 <= y1 < 20
    assert 400 < x2 <= 451
    assert 270 < y2 <= 300


def test_the_samples_hold_what_the_readme_says(real: eyas.Model) -> None:
    found = {Path(p.source_id).name: p.detections.class_name for p in real.stream(SAMPLES) if p.detections}
    assert list(found) == ALL
    assert found["chelsea.jpg"] == ["cat"]
    assert found["astronaut.jpg"][0] == "person"
    assert {"dining table", "cup"} <= set(found["coffee.jpg"])


def test_detections_are_in_pixels_of_the_source(blank: eyas.Model) -> None:
    """`null` finds a box over the whole input; what lies in the padding is cut off."""
    for height, width in [(8, 12), (300, 451), (1, 1), (40, 400), (2000, 37)]:
        (box,) = blank.predict(grey(200, height, width)).xyxy.tolist()
        assert box == [0, 0, width, height]


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
def test_the_real_network_takes_extreme_pictures(real: eyas.Model, shape: tuple[int, int]) -> None:
    found = real.predict(grey(128, *shape), conf=0.01)
    limit = np.array([shape[1], shape[0]] * 2)
    assert len(found) > 0
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= limit).all()


def test_a_picture_is_only_read(blank: eyas.Model) -> None:
    image = grey(9)
    image.flags.writeable = False
    blank.predict(image)
    assert (image == 9).all()


@pytest.mark.parametrize("source", [b"no picture", "missing.jpg", np.zeros((4, 4), np.float32), 3.5, None])
def test_one_bad_picture_raises(blank: eyas.Model, source: Any) -> None:
    with pytest.raises(SourceError):
        blank.predict(source)


def test_a_folder_is_not_one_picture(blank: eyas.Model, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(CHELSEA.read_bytes())
    for folder in (str(tmp_path), tmp_path, str(tmp_path / "*.jpg")):
        with pytest.raises(SourceError) as caught:
            blank.predict(folder)
        assert f"predict([{str(folder)!r}])" in str(caught.value)
        assert [len(d) for d in blank.predict([folder])] == [1]  # the remedy works


# Many pictures


def test_a_list_gives_a_lazy_iterator_in_order(blank: eyas.Model) -> None:
    wanted = [40, 250, 100, 180, 90, 201, 77, 128, 65, 255]
    found = blank.predict([grey(v) for v in wanted], conf=0.1)
    assert iter(found) is found
    assert values(found) == wanted
    assert list(blank.predict([])) == []


@pytest.mark.parametrize("batch", [1, 3])
def test_order_is_kept_among_pictures_of_very_different_size(batch: int) -> None:
    rng = np.random.default_rng(0)
    wanted = rng.integers(64, 256, 40).tolist()
    sides = [(1500, 2000) if i % 5 == 0 else (1 + i, 2 * i + 1) for i in range(40)]
    with eyas.load("nanodet", backend="null", batch=batch) as model:
        found = list(model.stream((grey(v, *s) for v, s in zip(wanted, sides, strict=True)), conf=0.2))
    assert values(p.detections for p in found) == wanted
    assert [p.frame.size for p in found if p.frame] == sides
    assert [p.frame.index for p in found if p.frame] == list(range(40))


def test_order_is_kept_when_later_groups_finish_first(load_fake: Any) -> None:
    calls = itertools.count()

    def slow_at_first(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        time.sleep(0.2 if next(calls) == 0 else 0)
        return plain(images, thresholds)

    model, _ = load_fake(slow_at_first, parallel=3)
    with model:
        assert values(model.predict([grey(v) for v in range(70, 90)])) == list(range(70, 90))


def test_a_batch_gives_what_single_pictures_give(real: eyas.Model) -> None:
    sources = [SAMPLES / name for name in [*ALL, *reversed(ALL), ALL[1]]]  # seven: the last group is not full
    with eyas.load("nanodet", precision="fp32", batch=3) as three:
        together = list(three.predict(sources))
    alone = list(real.predict(sources))
    assert len(together) == len(alone) == 7
    for a, b in zip(alone, together, strict=True):
        assert a.class_name == b.class_name
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=0.02)
        np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-4)


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize("batch", [1, 3])
def test_a_bad_picture_takes_no_other_with_it(batch: int) -> None:
    sources = [grey(80), b"no picture", grey(90), grey(100), b"", b"neither", "missing.jpg", grey(110)]
    with eyas.load("nanodet", backend="null", batch=batch) as model:
        found = list(model.stream(sources))
        assert [type(p.error) for p in found[1:2]] == [ImageError]
        assert [p.error is not None for p in found] == [False, True, False, False, True, True, True, False]
        assert all((p.error is None) == (p.detections is not None) == (p.frame is not None) for p in found)
        assert values(p.detections for p in found if p.detections) == [80, 90, 100, 110]
        assert [p.source_id for p in found][4:] == ["bytes 4", "bytes 5", "missing.jpg", "array 7"]

        lazy = model.predict(sources)
        assert values([next(lazy)]) == [80]
        with pytest.raises(ImageError, match="bytes 1"):
            next(lazy)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("parallel", [1, 3])
def test_an_endless_source_is_pulled_only_a_little_ahead(load_fake: Any, batch: int, parallel: int) -> None:
    pulled = 0

    def endless() -> Iterator[Image]:
        nonlocal pulled
        while True:
            pulled += 1
            yield grey(200)

    model, _ = load_fake(parallel=parallel, batch=batch)
    ahead = 2 * (parallel + 1) * batch
    with model:
        found = model.stream(endless())
        assert pulled == 0  # nothing before the first result is asked for
        for n in range(1, 30):
            next(found)
            assert n <= pulled < n + ahead
        found.close()
        after = pulled
        time.sleep(0.05)
        assert pulled == after


@pytest.mark.usefixtures("no_thread_left")
def test_an_abandoned_iterator_leaves_nothing_waiting(load_fake: Any) -> None:
    inside, go = threading.Event(), threading.Event()

    def waits(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        if images.max() < 10:
            inside.set()
            go.wait(10)
        return plain(images, thresholds)

    model, engine = load_fake(waits)
    with model:
        found = model.stream(grey(v) for v in (200, 5, *[201] * 48))
        next(found)
        assert inside.wait(10)
        del found
        go.set()
    assert engine.calls <= 4  # what was ready before, one of which may have overtaken another, and no more


def test_a_model_that_is_forgotten_ends_its_threads(load_fake: Any) -> None:
    before = set(threading.enumerate())
    model, engine = load_fake()
    model.predict(grey(200))
    mine = [t for t in threading.enumerate() if t not in before]
    assert mine != []
    del model
    gc.collect()
    assert not any(t.is_alive() for t in mine)
    assert engine.closed == 1


@pytest.mark.usefixtures("no_thread_left")
def test_what_the_users_generator_raises_comes_through(load_fake: Any) -> None:
    def breaks() -> Iterator[Image]:
        yield grey(200)
        raise KeyError("the camera fell over")

    model, _ = load_fake()
    with model, pytest.raises(KeyError, match="the camera fell over"):
        list(model.stream(breaks()))


@pytest.mark.usefixtures("no_thread_left")
def test_what_the_engine_raises_comes_through(load_fake: Any) -> None:
    def fails(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        raise ZeroDivisionError("the device fell over")

    model, engine = load_fake(fails, parallel=3, hint="throughput")
    with model:
        with pytest.raises(ZeroDivisionError, match="the device fell over"):
            model.predict(grey(200))
        with pytest.raises(ZeroDivisionError, match="the device fell over"):
            list(model.stream(grey(200) for _ in itertools.count()))
    assert engine.closed == 1


@pytest.mark.usefixtures("no_thread_left")
def test_an_error_midway_through_the_engine_comes_in_its_turn(load_fake: Any) -> None:

    def fails_at_dark(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        if images.max() < 10:
            raise RuntimeError("too dark")
        return plain(images, thresholds)

    model, _ = load_fake(fails_at_dark)
    with model:
        found = model.predict([grey(v) for v in (100, 110, 120, 5, 130, 140)])
        assert values([next(found) for _ in range(3)]) == [100, 110, 120]
        with pytest.raises(RuntimeError, match="too dark"):
            next(found)


# Futures


def test_submit_gives_a_future_of_what_predict_gives(real: eyas.Model) -> None:
    futures = [real.submit(SAMPLES / name) for name in ALL]
    for name, future in zip(ALL, futures, strict=True):
        found, wanted = future.result(60), real.predict(SAMPLES / name)
        assert found.class_name == wanted.class_name
        np.testing.assert_allclose(found.xyxy, wanted.xyxy, atol=0.02)


def test_a_coroutine_awaits_the_same_future(blank: eyas.Model) -> None:
    async def all_of_them() -> list[Any]:
        return list(await asyncio.gather(*(blank.submit(grey(v)) for v in range(70, 120))))

    assert values(asyncio.run(all_of_them())) == list(range(70, 120))


def test_each_request_has_its_own_thresholds_within_a_batch(load_fake: Any) -> None:
    model, engine = load_fake(batch=4, queue=eyas.QueueSpec(linger_s=5))
    with model:
        futures = [model.submit(grey(200), conf=conf) for conf in (0.5, 0.9, 0.1, 0.79)]
        assert [len(f.result(10)) for f in futures] == [1, 0, 1, 0]
    assert engine.calls == 1


@pytest.mark.parametrize("source", [b"no picture", "missing.jpg", np.zeros((4, 4), np.float32), 3.5])
def test_a_bad_picture_fails_its_future_alone(blank: eyas.Model, source: Any) -> None:
    bad, good = blank.submit(source), blank.submit(grey(200))
    assert isinstance(bad.exception(10), SourceError)
    assert values([good.result(10)]) == [200]


@pytest.mark.parametrize("source", [[grey(1)], SAMPLES, str(SAMPLES / "*.jpg")])
def test_submit_takes_one_picture(blank: eyas.Model, source: Any) -> None:
    with pytest.raises(SourceError, match="submit takes one picture"):
        blank.submit(source)


@pytest.mark.parametrize(
    ("option", "value"),
    [("priority", float("nan")), ("priority", "high"), ("timeout_s", -1), ("timeout_s", "1"), ("conf", 2), ("iou", -1)],
)
def test_submits_options_are_checked_at_once(blank: eyas.Model, option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=option.split("_")[0]):
        blank.submit(grey(1), **{option: value})


def test_a_request_past_its_deadline_never_reaches_the_engine(load_fake: Any) -> None:
    inside, go = threading.Event(), threading.Event()

    def waits(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        inside.set()
        go.wait(10)
        return plain(images, thresholds)

    model, engine = load_fake(waits)
    with model:
        first = model.submit(grey(200))
        assert inside.wait(10)
        late = model.submit(grey(210), timeout_s=0.05)
        patient = model.submit(grey(220), timeout_s=60)
        time.sleep(0.1)
        go.set()
        assert isinstance(late.exception(10), DeadlineError)
        assert values([first.result(10), patient.result(10)]) == [200, 220]
    assert engine.calls == 2


def test_what_cannot_be_decoded_after_the_engine_fails_alone(load_fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly = outputs_module.results_of

    def fails_for_dark(card: Any, head: Any, outputs: Any, *more: Any) -> Any:
        if outputs["detections"][:, 0, 4].min() < 0.1:
            raise FloatingPointError("nonsense")
        return plainly(card, head, outputs, *more)

    monkeypatch.setattr(stages, "results_of", fails_for_dark)
    model, _ = load_fake(batch=4, queue=eyas.QueueSpec(linger_s=0.2))
    with model:
        futures = [model.submit(grey(v)) for v in (100, 5, 110, 120)]
        assert isinstance(futures.pop(1).exception(10), FloatingPointError)
        assert values(f.result(10) for f in futures) == [100, 110, 120]


def test_a_future_keeps_its_model() -> None:
    assert values([eyas.load("nanodet", backend="null").submit(grey(200)).result(10)]) == [200]


def test_a_device_that_cannot_be_opened_leaves_no_engine_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[FakeEngine] = []

    def open_engine(graph: Any, spec: eyas.BuildSpec) -> FakeEngine:
        if spec.device == "gpu:1":
            raise eyas.BackendError("no such device")
        opened.append(FakeEngine(plain))
        return opened[-1]

    monkeypatch.setattr(null, "open_engine", open_engine)
    with (
        eyas.load("nanodet", backend="null", device="gpu:0,gpu:1") as model,
        pytest.raises(eyas.BackendError, match="no such device"),
    ):
        model.predict(grey(1))
    assert [engine.closed for engine in opened] == [1]


def test_several_devices_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str | None, FakeEngine]] = []

    def open_engine(graph: Any, spec: eyas.BuildSpec) -> FakeEngine:
        opened.append((spec.device, FakeEngine(lambda images, limits: (time.sleep(0.01), plain(images, limits))[1])))
        return opened[-1][1]

    monkeypatch.setattr(null, "open_engine", open_engine)
    with eyas.load("nanodet", backend="null", device="gpu:0, gpu:1,gpu:2") as model:
        assert values(model.predict([grey(v) for v in range(70, 100)])) == list(range(70, 100))
    assert [device for device, _ in opened] == ["gpu:0", "gpu:1", "gpu:2"]
    assert all(engine.calls > 3 and engine.closed == 1 for _, engine in opened)


def test_a_model_stays_in_its_process(blank: eyas.Model) -> None:
    with pytest.raises(TypeError, match=r"call eyas\.load in each process"):
        pickle.dumps(blank)


def test_without_draining_what_waits_is_cancelled(load_fake: Any) -> None:
    go, inside = threading.Event(), threading.Event()

    def waits(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        inside.set()
        go.wait(10)
        return plain(images, thresholds)

    model, engine = load_fake(waits)
    futures = [model.submit(grey(100))]
    assert inside.wait(10)
    futures += [model.submit(grey(v)) for v in range(101, 120)]
    threading.Timer(0.05, go.set).start()
    model.close(drain=False)
    assert values([futures[0].result(1)]) == [100]
    assert all(f.cancelled() for f in futures[1:])
    assert engine.calls == 1


# Options


@pytest.mark.parametrize("bad", [-0.01, 1.01, float("nan"), float("inf"), "0.5", [0.5], None])
@pytest.mark.parametrize("name", ["conf", "iou"])
def test_thresholds_out_of_range(blank: eyas.Model, name: str, bad: Any) -> None:
    if name == "iou" and bad is None:
        assert len(blank.predict(grey(200), iou=None)) == 1  # the model's own
        return
    for call in (blank.predict, blank.stream):
        for source in (grey(200), [grey(200)]):
            with pytest.raises(OptionError, match=f"{name} is out of range: got .*; expected a number 0 to 1"):
                call(source, **{name: bad})  # at once, not at the first result


@pytest.mark.parametrize("good", [0, 1, 0.5, np.float32(0.5), np.float64(0.5)])
def test_thresholds_in_range(blank: eyas.Model, good: Any) -> None:
    assert len(blank.predict(grey(255), conf=good, iou=good)) == (good < 1)


def test_conf_filters(blank: eyas.Model, real: eyas.Model) -> None:
    pictures = [grey(v) for v in (20, 60, 70, 200)]
    assert [len(d) for d in blank.predict(pictures)] == [0, 0, 1, 1]  # 0.25 unless told
    assert [len(d) for d in blank.predict(pictures, conf=0.5)] == [0, 0, 0, 1]
    all_of_them = real.predict(CHELSEA, conf=0.01)
    some = real.predict(CHELSEA, conf=0.05)
    assert len(all_of_them) > len(some) > 1
    assert (some.confidence > 0.05).all()
    assert (np.diff(all_of_them.confidence) <= 0).all()
    np.testing.assert_allclose(some.xyxy, all_of_them[all_of_them.confidence > 0.05].xyxy, atol=1e-3)


def test_iou_decides_how_much_may_overlap(real: eyas.Model) -> None:
    counts = [len(real.predict(CHELSEA, conf=0.05, iou=iou)) for iou in (0.1, 0.6, 1.0)]
    assert counts[0] < counts[1] < counts[2]
    assert len(real.predict(CHELSEA, conf=0.05)) == counts[1]  # 0.6, as its authors have it


def test_classes_by_name_and_number() -> None:
    for classes in (["person"], [0], ["0"]):
        with eyas.load("nanodet", precision="fp32", classes=classes) as model:
            found = [set(d.class_name) for d in model.predict([SAMPLES / name for name in ALL])]
        assert found == [{"person"}, set(), set()]
    with pytest.raises(OptionError, match="Did you mean person"):
        eyas.load("nanodet", classes=["persn"])


# Threads, buffers, closing


def test_two_threads_at_once_get_their_own_results(real: eyas.Model) -> None:
    expected = {name: real.predict(SAMPLES / name) for name in ALL}
    wrong: list[str] = []

    def work(names: list[str]) -> None:
        for name in names * 4:
            d = real.predict(SAMPLES / name)
            if d.class_name != expected[name].class_name or not np.allclose(d.xyxy, expected[name].xyxy, atol=0.02):
                wrong.append(name)

    def work_in_streams() -> None:
        for name, d in zip(ALL * 3, real.predict([SAMPLES / n for n in ALL * 3]), strict=True):
            if d.class_name != expected[name].class_name or not np.allclose(d.xyxy, expected[name].xyxy, atol=0.02):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=[ALL]), threading.Thread(target=work, args=[ALL[::-1]])]
    threads.append(threading.Thread(target=work_in_streams))
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert wrong == []
    assert not any(t.is_alive() for t in threads)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_memory_of_batches_goes_round(load_fake: Any, batch: int) -> None:
    model, engine = load_fake(parallel=2, batch=batch)
    with model:
        assert len(list(model.stream([grey(200)] * 60))) == 60
    assert 1 <= len(engine.seen) <= 2  # threads
    assert len(set().union(*engine.seen.values())) <= 3  # two batches run, one is being filled


def test_results_do_not_share_memory_with_the_engines_outputs(load_fake: Any) -> None:
    table = np.zeros((1, 300, 6), np.float32)
    table[0, 0] = [0, 0, 416, 416, 0.9, 3]

    model, _ = load_fake(lambda images, thresholds: rows(table, np.array([1], np.int32), np.ones(1, np.bool_)))
    with model:
        found = model.predict(grey(1, 416, 416))
    table[:] = 0
    assert found.to_dict() == [
        {"class_name": "motorcycle", "class_id": 3, "confidence": 0.9, "xyxy": [0.0, 0.0, 416.0, 416.0]}
    ]


def test_a_closed_model_says_so(load_fake: Any) -> None:
    model, engine = load_fake()
    with model as same:
        assert same is model
        model.predict(grey(200))
        lazy = model.predict([grey(200)])
    assert engine.closed == 1
    for use in (lambda: model.predict(grey(200)), lambda: list(model.stream([grey(200)])), lambda: next(lazy)):
        with pytest.raises(EyasError, match="the model is closed: load it again"):
            use()
    model.close()
    assert engine.closed == 1


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_closing_in_the_middle_of_a_stream_ends_it(backend: str) -> None:
    """A closed engine could hang the stream for ever (OpenVINO) or fail in its own words (ONNX Runtime)."""
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    model = eyas.load("nanodet", backend=backend)
    found = model.stream([grey(200)] * 40)
    next(found)
    time.sleep(0.3)  # all that was submitted has run: no call is under way
    model.close()
    with pytest.raises(EyasError, match="the model is closed"):
        list(found)


def test_closing_waits_for_the_calls_under_way(load_fake: Any) -> None:
    inside, go = threading.Event(), threading.Event()
    events: list[str] = []

    def waits(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        inside.set()
        go.wait(10)
        events.append("inferred")
        return plain(images, thresholds)

    model, engine = load_fake(waits)
    found: list[eyas.Detections] = []
    caller = threading.Thread(target=lambda: found.append(model.predict(grey(200))))
    closer = threading.Thread(target=lambda: (model.close(), events.append("closed")))
    caller.start()
    assert inside.wait(10)
    closer.start()
    time.sleep(0.05)
    assert engine.closed == 0
    go.set()
    caller.join(10)
    closer.join(10)
    assert events == ["inferred", "closed"]
    assert engine.closed == 1
    assert values(found) == [200]


def test_an_engine_is_compiled_once_and_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    hints: list[str] = []
    plain = null.open_engine

    def counted(graph: Any, spec: eyas.BuildSpec) -> Any:
        hints.append(spec.hint)
        return plain(graph, spec)

    monkeypatch.setattr(null, "open_engine", counted)
    with eyas.load("nanodet", backend="null") as model:
        assert hints == []
        model.predict(grey(1))
        model.predict(grey(1))
        assert hints == ["latency"]
        list(model.predict([grey(1)] * 3))
        list(model.stream([grey(1)] * 3))
        assert hints == ["latency", "throughput"]
    hints.clear()
    with eyas.load("nanodet", backend="null", hint="throughput") as model:
        model.predict(grey(1))
        list(model.predict([grey(1)]))
    assert hints == ["throughput"]


# What the graph leaves to the host


def crowd(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """n candidates by falling score: long chains of overlapping boxes, three classes."""
    x = np.cumsum(rng.uniform(5, 15, n)).astype(np.float32) % 380
    rows = np.zeros((n, 6), np.float32)
    rows[:, :4] = np.stack([x, x / 2, x + 36, x / 2 + 100], axis=1)
    rows[:, 4] = np.linspace(0.9, 0.3, n)
    rows[:, 5] = rng.integers(0, 3, n)
    return rows


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_suppression_that_did_not_converge_is_finished_on_the_host(load_fake: Any, agnostic: bool, batch: int) -> None:
    found_rows = crowd(np.random.default_rng(1), 60)

    def unfinished(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        """All candidates of bright pictures, unsuppressed; for dark ones the first five, as final."""
        np.testing.assert_allclose(thresholds, [[0.25, 0.4]] * len(images))
        table = np.full((len(images), 300, 6), -1, np.float32)
        table[:, :60] = found_rows
        bright = images[:, 208, 208, 0] > 100
        return rows(table, np.where(bright, 60, 5).astype(np.int32), ~bright)

    model, _ = load_fake(unfinished, agnostic_nms=agnostic, batch=batch)
    with model:
        found = list(model.predict([grey(200, 832, 832), grey(50, 832, 832), grey(200, 832, 832)], iou=0.4))
    stay = greedy_nms(found_rows[:, :4], found_rows[:, 5], 0.4, agnostic)
    assert 5 < len(stay) < 60
    for d in (found[0], found[2]):
        np.testing.assert_allclose(d.xyxy, found_rows[stay, :4] * 2, rtol=1e-6)
        np.testing.assert_array_equal(d.confidence, found_rows[stay, 4])
        np.testing.assert_array_equal(d.class_id, found_rows[stay, 5])
    np.testing.assert_array_equal(found[1].confidence, found_rows[:5, 4])


def test_rows_that_are_not_finite_are_dropped(load_fake: Any) -> None:
    table = np.zeros((1, 300, 6), np.float32)
    table[0, :4] = [0, 0, 9, 9, 0.9, 1]
    table[0, 1, 2] = np.nan
    table[0, 2, 0] = -np.inf

    model, _ = load_fake(lambda images, thresholds: rows(table, np.array([4], np.int32), np.ones(1, np.bool_)))
    with model:
        found = model.predict(grey(1, 416, 416))
    assert found.xyxy.tolist() == [[0, 0, 9, 9]] * 2


@pytest.mark.parametrize(("last", "times"), [(0.3, 1), (0.2, 0), (-1, 0)])
def test_a_full_table_is_said_once(load_fake: Any, caplog: pytest.LogCaptureFixture, last: float, times: int) -> None:
    table = np.full((1, 300, 6), last, np.float32)
    model, _ = load_fake(lambda images, thresholds: rows(table, np.array([0], np.int32), np.ones(1, np.bool_)))
    with model:
        for _ in range(3):
            model.predict(grey(1))
    assert sum("more than 300 candidates" in r.message for r in caplog.records) == times


def test_max_det_limits_the_objects(real: eyas.Model) -> None:
    with eyas.load("nanodet", precision="fp32", max_det=2) as model:
        found = model.predict(CHELSEA, conf=0.01, iou=1.0)
    assert len(found) == 2
    np.testing.assert_allclose(found.xyxy, real.predict(CHELSEA, conf=0.01, iou=1.0)[:2].xyxy, atol=0.02)
