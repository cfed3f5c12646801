"""Metrics against pycocotools, against hand-computed cases, and at their limits."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from eyas.evaluation import metrics
from eyas.evaluation.classmap import map_classes
from eyas.evaluation.dataset import Dataset, Label, LabelledImage
from eyas.evaluation.evaluate import Evaluation, evaluate, open_for_evaluation, truth_of
from eyas.evaluation.labels import open_dataset
from eyas.evaluation.metrics import Found, Truth, best_confidence, coco_scores, confusion, curve, match

pytest.importorskip("faster_coco_eval", reason="the extra `val` is not installed")


def truth(*rows: tuple[float, ...]) -> Truth:
    """Rows of image, class, x, y, w, h, crowd."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    whole = table[:, :2].astype(np.int64)
    box = table[:, 2:6]
    return Truth(whole[:, 0], whole[:, 1], box, box[:, 2:].prod(axis=1), table[:, 6].astype(np.bool_))


def found(*rows: tuple[float, ...]) -> Found:
    """Rows of image, class, x, y, w, h, score."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    table = table[np.lexsort((-table[:, 6], table[:, 0]))]
    return Found(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:6], table[:, 6])


def random_scenes(seed: int, images: int = 40, classes: int = 5) -> tuple[Truth, Found]:
    """Objects of all sizes, some of them crowds; detections near them, of the wrong class, twice, or of nothing."""
    rng = np.random.default_rng(seed)
    objects, seen = [], []
    for image in range(images):
        for _ in range(rng.integers(0, 9)):
            cls, size = rng.integers(0, classes - 1), rng.choice([12, 50, 200]) * rng.uniform(0.7, 1.4, 2)
            place = rng.uniform(0, 400, 2)
            objects.append((image, cls, *place, *size, rng.random() < 0.1))
            for _ in range(rng.integers(0, 4)):
                near = np.concatenate([place, size]) + rng.normal(0, 0.12, 4) * np.tile(size, 2)
                near[2:] = np.maximum(near[2:], 1)
                seen.append((image, cls if rng.random() < 0.8 else rng.integers(0, classes), *near, rng.random()))
        seen += [
            (image, rng.integers(0, classes), *rng.uniform(1, 300, 4), rng.random()) for _ in range(rng.integers(4))
        ]
    return truth(*objects), found(*seen)


def with_pycocotools(t: Truth, f: Found, images: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(its twelve figures, precision, recall)."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    parts = zip(t.image.tolist(), t.cls.tolist(), t.xywh.tolist(), t.area.tolist(), t.crowd.tolist(), strict=True)
    rows = [
        {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": a, "iscrowd": int(k)}
        for n, (i, c, b, a, k) in enumerate(parts, 1)
    ]
    hits = zip(f.image.tolist(), f.cls.tolist(), f.xywh.tolist(), f.score.tolist(), strict=True)
    results = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in hits]
    with contextlib.redirect_stdout(io.StringIO()):
        labels = coco.COCO()
        labels.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(images)],
            "categories": [{"id": i} for i in range(classes)],
            "annotations": rows,
        }
        labels.createIndex()
        run = COCOeval(labels, labels.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats, run.eval["precision"], run.eval["recall"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_agrees_with_pycocotools(seed: int):
    t, f = random_scenes(seed)
    stats, precision, recall = with_pycocotools(t, f, 40, 5)
    s = coco_scores(t, f, 40, 5)
    mine = [s.ap(), s.ap(iou=50), s.ap(iou=75), *(s.ap(area=a) for a in ("small", "medium", "large"))]
    mine += [s.ar(1), s.ar(10), s.ar(100), *(s.ar(area=a) for a in ("small", "medium", "large"))]
    np.testing.assert_allclose(np.array(mine, float), stats, atol=1e-6)
    np.testing.assert_allclose(s.precision, precision, atol=1e-6)
    np.testing.assert_allclose(s.recall, recall, atol=1e-6)
    assert s.ap(4) is None  # a class that no label has
    per_class = [s.ap(i) for i in range(4)]
    np.testing.assert_allclose(np.mean(np.array(per_class, float)), s.ap())
    assert 0.1 < stats[0] < 0.9


def as_evaluation(t: Truth, f: Found, images: int = 40, classes: int = 5) -> Evaluation:
    names = [f"class {i}" for i in range(classes)]
    listed = tuple(LabelledImage(Path(f"{i}.jpg"), i, 640, 640) for i in range(images))
    parts = zip(t.image.tolist(), t.cls.tolist(), t.xywh.tolist(), t.area.tolist(), t.crowd.tolist(), strict=True)
    labels = tuple(Label(i, c, (b[0], b[1], b[2], b[3]), a, k) for i, c, b, a, k in parts)
    data = Dataset(Path("x"), "coco", listed, labels, dict(enumerate(names)))
    mapped = map_classes(names, data)
    return Evaluation(data, mapped, tuple(range(images)), truth_of(data, mapped, list(range(images))), f, (), 0, 1.0)


def test_a_perfect_detector_gets_one():
    t, _ = random_scenes(4)
    real = ~t.crowd
    f = Found(t.image[real], t.cls[real], t.xywh[real], np.linspace(0.9, 0.5, real.sum()))
    report = as_evaluation(t, f).report()
    for key in ("mAP50-95", "mAP50", "mAP75", "AR100", "best_f1", "precision", "recall"):
        assert report[key] == pytest.approx(1), key
    assert all(c["mAP50-95"] == pytest.approx(1) and c["f1"] == 1 for c in report["classes"])
    table = np.array(report["confusion"]["matrix"])
    assert table.sum() == np.trace(table) == real.sum() == report["instances"]


def test_an_empty_detector_gets_nothing():
    t, _ = random_scenes(5)
    e = as_evaluation(t, found())
    report = e.report()
    for key in ("mAP50-95", "mAP50", "AR100", "best_f1", "recall"):
        assert report[key] == 0, key
    assert report["precision"] is None
    assert np.array(report["confusion"]["matrix"])[:, -1].sum() == report["instances"]
    assert e.errors_by_image()[0].sum() == report["instances"]
    assert e.results() == []


def test_matches_are_coco_s_at_one_threshold():
    t, f = random_scenes(6)
    s, m = coco_scores(t, f, 40, 5), match(t, f)
    for cls in range(4):
        real = (t.cls == cls) & ~t.crowd
        assert (m.by[real] > -np.inf).sum() / real.sum() == pytest.approx(s.recall[0, cls, 0, -1])
    assert m.hit.sum() == (m.by > -np.inf).sum()
    assert not (m.hit & m.ignored).any()


def test_matches_by_hand():
    t = truth((0, 0, 0, 0, 10, 10, 0), (0, 0, 20, 0, 10, 10, 0), (0, 0, 50, 50, 40, 40, 1), (1, 1, 0, 0, 10, 10, 0))
    f = found(
        (0, 0, 0, 0, 10, 10, 0.9),  # right
        (0, 0, 1, 0, 10, 10, 0.8),  # its object is taken
        (0, 0, 52, 52, 10, 10, 0.7),  # within the crowd
        (0, 0, 54, 54, 10, 10, 0.6),  # also
        (1, 0, 0, 0, 10, 10, 0.5),  # wrong class
        (1, 1, 0, 0, 10, 5, 0.4),  # IoU is exactly .5
    )
    m = match(t, f)
    assert m.hit.tolist() == [True, False, False, False, False, True]
    assert m.ignored.tolist() == [False, False, True, True, False, False]
    assert m.by.tolist() == [0.9, -np.inf, -np.inf, 0.4]


def test_the_curve_by_hand():
    score, hit = np.array([0.9, 0.7, 0.7, 0.3]), np.array([True, True, False, False])
    got = curve(score, hit, 4, np.array([0.0, 0.3, 0.7, 0.95]))
    np.testing.assert_allclose(got.precision, [0.5, 2 / 3, 1, np.nan])
    np.testing.assert_allclose(got.recall, [0.5, 0.5, 0.25, 0])
    np.testing.assert_allclose(got.f1, [4 / 8, 4 / 7, 2 / 5, 0])
    assert best_confidence(score, hit, 4) == pytest.approx(0.5)  # half way from .3 to .7
    assert best_confidence(score, np.zeros(4, bool), 4) == 0


def test_confusions_by_hand():
    t = truth(
        (0, 0, 0, 0, 10, 10, 0),  # found as 0
        (0, 0, 30, 0, 10, 10, 0),  # taken for 1
        (0, 1, 60, 0, 10, 10, 0),  # missed
        (1, 1, 0, 0, 10, 10, 0),  # found as 1 by the better overlap
        (1, 0, 50, 50, 40, 40, 1),
    )
    f = found(
        (0, 0, 0, 0, 10, 10, 0.9),
        (0, 1, 31, 0, 10, 10, 0.6),
        (0, 1, 61, 0, 10, 10, 0.2),  # too weak
        (0, 1, 200, 200, 9, 9, 0.8),  # nothing there
        (1, 0, 2, 0, 10, 10, 0.95),  # beaten by the next: a false 0
        (1, 1, 0, 0, 10, 10, 0.5),
        (1, 0, 55, 55, 10, 10, 0.9),  # in the crowd
    )
    want = [[1, 1, 0], [0, 1, 1], [1, 1, 0]]
    assert confusion(t, f, 2).tolist() == want
    assert confusion(t, found(), 2).tolist() == [[0, 0, 2], [0, 0, 2], [0, 0, 0]]
    assert confusion(truth(), f, 2)[2].tolist() == [3, 3, 0]
    assert confusion(t, f, 2, conf=0.1).tolist() == [[1, 1, 0], [0, 2, 0], [1, 1, 0]]


def test_a_confusion_table_for_people_keeps_every_count():
    from eyas.evaluation.plots import few_classes

    table = np.arange(26 * 26).reshape(26, 26)
    names, small = few_classes([f"c{i}" for i in range(25)], table, most=5)
    assert names == ["c24", "c23", "c22", "c21", "21 other classes", "background"]
    assert small.sum() == table.sum()
    empty = np.zeros((3, 3), int)
    assert few_classes(["a", "b"], empty)[0] == ["background"]


def test_plots_are_pictures_whatever_the_classes_are_called():
    from eyas.evaluation import plots

    t, f = random_scenes(7)
    e = as_evaluation(t, f)
    odd = ("$x^2", "a_b", "[red]", "long " * 9, "猫")
    e = Evaluation(e.data, type(e.classes)(odd, *[getattr(e.classes, k) for k in e.classes.__slots__[1:]]),
                   e.images, e.truth, e.found, (), 0, 1.0)  # fmt: skip
    for plot in (plots.pr_curve, plots.f1_curve, plots.confusion_matrix):
        assert plot(e).startswith(b"\x89PNG")
    nothing = as_evaluation(t, found())
    for plot in (plots.pr_curve, plots.f1_curve, plots.confusion_matrix):
        assert plot(nothing).startswith(b"\x89PNG")


def test_results_carry_the_data_s_own_ids():
    t, f = random_scenes(8)
    e = as_evaluation(t, f)
    rows = e.results()
    assert len(rows) == len(f.score)
    assert rows[0] == {
        "image_id": int(f.image[0]),
        "category_id": int(f.cls[0]),
        "bbox": f.xywh[0].tolist(),
        "score": f.score[0],
    }


def test_areas_and_limits_are_coco_s():
    assert metrics.AREAS == ("all", "small", "medium", "large")
    assert metrics.MOST == (1, 10, 100)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "least", "least_50"), [("nanodet_g", 0.29, 0.45), ("yolov8n", 0.39, 0.54)])
def test_real_models_are_as_good_as_known(real_data: Path, name: str, least: float, least_50: float):
    data = open_dataset(real_data / "data" / "coco_val" / "instances.json")
    with open_for_evaluation(str(real_data / "models" / f"{name}.onnx"), precision="fp32", hint="throughput") as model:
        classes = map_classes(model.card.names, data)
        assert len(classes.names) == 80
        e = evaluate(model, data, classes)
    report = e.report()
    assert least < report["mAP50-95"] < least + 0.07
    assert least_50 < report["mAP50"] < least_50 + 0.1
    assert report["instances"] == 418
    stats, _, _ = with_pycocotools(e.truth, e.found, 60, 80)
    assert stats[0] == pytest.approx(report["mAP50-95"], abs=1e-6)
