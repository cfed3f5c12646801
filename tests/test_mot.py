"""MOT files in and out, and the figures that compare tracks with the truth."""

from __future__ import annotations

import itertools
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tracking_scenes import street

from eyas.errors import DataError
from eyas.evaluation.tracks import score, score_sequences
from eyas.results import Detections
from eyas.tracking.mot import MotTable, read_mot, table_of, write_mot


def table(*rows: tuple[float, ...]) -> MotTable:
    """Rows of frame, id, x, y, w, h, confidence."""
    a = np.array(rows, np.float64).reshape(-1, 7)
    return MotTable(a[:, 0].astype(np.int64), a[:, 1].astype(np.int64), a[:, 2:6], a[:, 6])


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gt.txt"
    path.write_text(text, encoding="utf-8")
    return path


# ---- the format ----


def test_a_detection_file_is_read(tmp_path: Path):
    read = read_mot(write(tmp_path, "2,-1,10.5,20,30,40,0.9,-1,-1,-1\n1,-1,1,2,3,4,0.5,-1,-1,-1\n\n"))
    assert read.frame.tolist() == [1, 2]
    assert read.track_id.tolist() == [-1, -1]
    assert read.xywh.tolist() == [[1, 2, 3, 4], [10.5, 20, 30, 40]]
    assert read.confidence.tolist() == [0.5, 0.9]


def test_columns_may_be_parted_by_blanks_and_lack_the_confidence(tmp_path: Path):
    read = read_mot(write(tmp_path, "1 7 1 2 3 4\r\n"))
    assert (read.track_id.tolist(), read.confidence.tolist()) == ([7], [1.0])


def test_a_comma_may_end_a_line_and_blanks_stand_beside_commas(tmp_path: Path):
    assert len(read_mot(write(tmp_path, "1, 7, 1, 2, 3, 4, 1,\n2 , 7,\t1,2,3,4,1,-1,-1,-1\n1,8,1,2,3,4,\n"))) == 3


def test_an_empty_file_holds_no_rows(tmp_path: Path):
    assert len(read_mot(write(tmp_path, ""))) == 0


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("1,1,2,3,4", "1,1,2,3,4"),
        ("0,1,1,2,3,4,1", "0,1,1,2"),
        ("1.5,1,1,2,3,4,1", "1.5,1"),
        ("1,1,1,2,-3,4,1", "-3"),
        ("1,1,nan,2,3,4,1", "nan"),
        ("1,1,1e300,2,3,4,1", "1e300"),
        ("1,one,1,2,3,4,1", "one"),
        ("1,1,,2,3,4,1", "1,1,,2"),
        ("1,1,1,2,3,4,,1", "1,1,1,2,3,4,,1"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, got: str):
    with pytest.raises(DataError, match="line 2") as caught:
        read_mot(write(tmp_path, f"1,5,1,2,3,4,1\n{line}\n"))
    assert got in str(caught.value)


def test_an_id_that_is_in_one_frame_twice_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"line 3.*id 1 twice in frame 1"):
        read_mot(write(tmp_path, "1,1,0,0,5,5,1\n2,1,0,0,5,5,1\n1,1,9,9,5,5,1\n"))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None):
    path = tmp_path / "det.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*det\.txt"):
        read_mot(path)


coordinates = st.floats(-1e4, 1e4).map(lambda v: round(v, 2))
sides = st.floats(0, 1e4).map(lambda v: round(v, 2))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 99), coordinates, coordinates, sides, sides), max_size=20))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]]):
    rows.sort(key=lambda r: r[0])
    wanted = table(*[(r[0], i, *r[1:], 0.5) for i, r in enumerate(rows)])
    path = tmp_path_factory.mktemp("mot") / "out.txt"
    write_mot(path, wanted)
    read = read_mot(path)
    for name in ("frame", "track_id", "xywh", "confidence"):
        np.testing.assert_array_equal(getattr(read, name), getattr(wanted, name))


def test_detections_of_a_frame_come_by_falling_confidence():
    found = table((1, 3, 0, 0, 9, 9, 1), (2, 3, 10, 20, 30, 40, 0.4), (2, 4, 1, 2, 3, 4, 0.8)).detections(2)
    assert found.xyxy.tolist() == [[1, 2, 4, 6], [10, 20, 40, 60]]
    assert found.confidence.tolist() == pytest.approx([0.8, 0.4])


def test_a_trackers_output_becomes_a_table():
    boxes = np.array([[1, 2, 4, 6]], np.float32)
    found = Detections(boxes, np.ones(1, np.float32), np.zeros(1, np.int64), tracker_id=np.array([7]))
    made = table_of([(2, found), (1, found), (3, found[:0])])
    assert made.frame.tolist() == [1, 2]
    assert made.track_id.tolist() == [7, 7]
    assert made.xywh.tolist() == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("frame", [0, 1])
def test_detections_without_ids_or_frames_from_0_are_no_tracks(frame: int):
    found = Detections.empty()
    with pytest.raises(DataError, match="no tracks"):
        table_of([(frame, found)])


# ---- the figures ----


def broken(scene_truth: MotTable, seed: int) -> MotTable:
    """The truth with boxes shaken, left out and added, and identities that change half way."""
    rng = np.random.default_rng(seed)
    kept = scene_truth.where((rng.random(len(scene_truth)) < 0.85) & (scene_truth.confidence > 0))
    later = kept.frame > 30
    ids = np.where(later & (kept.track_id % 3 == 0), kept.track_id + 100, kept.track_id)
    ids = np.where(later & (kept.track_id % 5 == 1), 200, ids)  # only one walker of this kind among six
    xywh = kept.xywh + rng.normal(0, 0.06, kept.xywh.shape) * kept.xywh[:, 3:]
    extra = table(*[(f, 300 + f % 4, *rng.uniform(20, 200, 4), 1.0) for f in range(1, 60, 3)])
    columns = [
        np.concatenate([getattr(part, name) for part in (MotTable(kept.frame, ids, xywh, kept.confidence), extra)])
        for name in ("frame", "track_id", "xywh", "confidence")
    ]
    order = np.argsort(columns[0], kind="stable")
    return MotTable(*(c[order] for c in columns))


@pytest.fixture(scope="module")
def pair() -> tuple[MotTable, MotTable]:
    truth = street(seed=1, walkers=6, frames=60).truth
    return truth.where(truth.confidence > 0), broken(truth, 1)


def need_scores() -> None:
    pytest.importorskip("trackers.eval", reason="the extra `track` is not installed")


def ious(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes x, y, w, h, pair by pair, in plain arithmetic."""
    out = np.zeros((len(a), len(b)))
    for (i, (x, y, w, h)), (j, (u, v, m, n)) in itertools.product(enumerate(a), enumerate(b)):
        wide, high = min(x + w, u + m) - max(x, u), min(y + h, v + n) - max(y, v)
        both = max(wide, 0) * max(high, 0)
        out[i, j] = both / (w * h + m * n - both)
    return out


def test_the_truth_itself_scores_1(pair: tuple[MotTable, MotTable]):
    need_scores()
    s = score(pair[0], pair[0])
    assert (s.hota, s.deta, s.assa, s.mota, s.motp, s.idf1) == pytest.approx([1] * 6)
    assert (s.missed, s.false, s.id_switches) == (0, 0, 0)
    walkers = len(np.unique(pair[0].track_id))
    assert (s.objects, s.tracks, s.frames) == (walkers, walkers, 60)


def test_nothing_found_scores_0(pair: tuple[MotTable, MotTable]):
    need_scores()
    s = score(pair[0], table())
    assert (s.hota, s.mota, s.idf1, s.matched, s.missed) == (0, 0, 0, 0, len(pair[0]))


def test_mota_and_idf1_are_those_of_motmetrics(pair: tuple[MotTable, MotTable]):
    need_scores()
    mm = pytest.importorskip("motmetrics", reason="motmetrics, the second opinion, is not installed")
    truth, result = pair
    accumulator = mm.MOTAccumulator(auto_id=True)
    for frame in range(1, 61):
        a, b = truth.where(truth.frame == frame), result.where(result.frame == frame)
        overlap = ious(a.xywh, b.xywh)
        distance = np.where(overlap >= 0.5, 1 - overlap, np.nan)
        accumulator.update(a.track_id.tolist(), b.track_id.tolist(), distance)
    names = ["mota", "idf1", "idp", "idr", "num_switches", "num_false_positives", "num_misses", "mostly_tracked"]
    theirs = mm.metrics.create().compute(accumulator, metrics=names).iloc[0]
    ours = score(truth, result)
    assert ours.id_switches > 0
    assert [ours.mota, ours.idf1, ours.idp, ours.idr] == pytest.approx(theirs.iloc[:4].tolist())
    counts = [ours.id_switches, ours.false, ours.missed, ours.mostly_tracked]
    assert counts == theirs.iloc[4:].astype(int).tolist()


def test_hota_is_its_definition_written_out(pair: tuple[MotTable, MotTable]):
    """Luiten et al., 2021, sections 4.1 and 5, with sets and dictionaries."""
    need_scores()
    optimize = pytest.importorskip("scipy.optimize", reason="the extra `track` is not installed")
    truth, result = pair
    frames = []
    for f in range(1, 61):
        a, b = truth.where(truth.frame == f), result.where(result.frame == f)
        frames.append((a.track_id.tolist(), b.track_id.tolist(), ious(a.xywh, b.xywh)))
    length_a = {i: sum(i in a for a, _, _ in frames) for i in set(truth.track_id.tolist())}
    length_b = {j: sum(j in b for _, b, _ in frames) for j in set(result.track_id.tolist())}
    jaccard = dict.fromkeys(itertools.product(length_a, length_b), 0.0)
    for a, b, s in frames:
        for (i, p), (j, q) in itertools.product(enumerate(a), enumerate(b)):
            total = s[i].sum() + s[:, j].sum() - s[i, j]
            jaccard[p, q] += s[i, j] / total if total > 0 else 0.0
    alignment = {(p, q): v / (length_a[p] + length_b[q] - v) for (p, q), v in jaccard.items()}
    hota, deta, assa = [], [], []
    for alpha in np.arange(1, 20) * 0.05:
        matches: list[tuple[int, int]] = []
        for a, b, s in frames:
            gain = np.array([[alignment[p, q] for q in b] for p in a]).reshape(s.shape) * s
            rows, columns = optimize.linear_sum_assignment(gain, maximize=True)
            matches += [(a[i], b[j]) for i, j in zip(rows, columns, strict=True) if s[i, j] >= alpha - 1e-12]
        tpa = {m: matches.count(m) for m in set(matches)}
        association = sum(n * n / (length_a[p] + length_b[q] - n) for (p, q), n in tpa.items()) / max(len(matches), 1)
        detection = len(matches) / (len(truth) + len(result) - len(matches))
        hota.append((association * detection) ** 0.5)
        deta.append(detection)
        assa.append(association)
    ours = score(truth, result)
    assert [ours.hota, ours.deta, ours.assa] == pytest.approx([np.mean(hota), np.mean(deta), np.mean(assa)])


def test_two_sequences_score_as_the_library_adds_them(pair: tuple[MotTable, MotTable]):
    need_scores()
    second = street(seed=2, walkers=4, frames=40).truth
    second = second.where(second.confidence > 0)
    pairs = [pair, (second, second)]
    a, b, both = score(*pair), score(second, second), score_sequences(pairs)

    def added(name: str) -> int:
        return int(getattr(a, name) + getattr(b, name))

    for name in ("matched", "missed", "false", "id_switches", "fragments", "objects", "tracks", "frames"):
        assert getattr(both, name) == added(name)
    boxes = added("matched") + added("missed")
    assert both.mota == pytest.approx(1 - (added("missed") + added("false") + added("id_switches")) / boxes)
    assert a.hota < both.hota < b.hota


def test_truth_that_does_not_count_is_left_out():
    need_scores()
    truth = table((1, 1, 0, 0, 10, 10, 1), (1, 2, 50, 50, 10, 10, 0))
    s = score(truth, table((1, 1, 0, 0, 10, 10, 1)))
    assert (s.mota, s.objects) == (1, 1)


def test_frames_that_only_one_side_has_count():
    need_scores()
    s = score(table((1, 1, 0, 0, 10, 10, 1)), table((2, 1, 0, 0, 10, 10, 1)))
    assert (s.missed, s.false, s.frames) == (1, 1, 2)


def test_detections_are_not_taken_for_tracks():
    need_scores()
    with pytest.raises(DataError, match="the result has boxes without a track"):
        score(table((1, 1, 0, 0, 10, 10, 1)), table((1, -1, 0, 0, 10, 10, 1)))


def test_without_truth_there_is_no_score():
    need_scores()
    with pytest.raises(DataError, match="nothing to compare with"):
        score(table(), table((1, 1, 0, 0, 10, 10, 1)))


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 3), unique=False), st.permutations(range(4)))
def test_names_of_identities_do_not_matter(ids: NDArray[np.int64], names: list[int]):
    need_scores()
    frames = np.arange(1, len(ids) + 1)
    boxes = np.tile([[0.0, 0.0, 10.0, 10.0]], (len(ids), 1))
    truth = MotTable(frames, np.zeros(len(ids), np.int64), boxes, np.ones(len(ids)))
    tables = [MotTable(frames, i, boxes, np.ones(len(ids))) for i in (ids, np.take(names, ids))]
    one, other = (score(truth, t) for t in tables)
    assert astuple(one) == pytest.approx(astuple(other))
