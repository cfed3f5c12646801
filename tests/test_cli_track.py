"""`eyas track`: what is written of one stream and of several, what is refused, and how it ends when it is cut short."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clips
import cv2
import numpy as np
import pytest
from clips import Server, constant, times_of, write
from conftest import SAMPLES

from eyas.cli import main
from eyas.cli.track import TRACKERS as NAMED
from eyas.cli.track import _address, _option
from eyas.errors import BackendError
from eyas.results import Detections
from eyas.tracking import TRACKERS
from eyas.tracking.draw import Painter
from eyas.tracking.mot import read_mot
from eyas.tracking.output import file_names
from eyas.types import Image
from eyas.video import VideoFrame
from eyas.video.wall import Wall
from eyas.video.window import Window, check_display

pytest.importorskip("trackers", reason="the extra `track` is not installed")
NULL = ("--backend", "null")
BRIGHT = 230  # `null` sees an object of confidence 0.90, as large as the picture
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def track(capsys: pytest.CaptureFixture[str]) -> Run:
    """track(*arguments) → exit code, standard output, standard error; argparse's own exits included."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main(["track", *(str(a) for a in arguments), *NULL])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def make_clip(path: Path, n: int = 12) -> Path:
    path.parent.mkdir(exist_ok=True)
    return write(path, constant(n), images=[np.full((36, 64, 3), BRIGHT, np.uint8)] * n)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4")


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two clips of one name."""
    return [make_clip(tmp_path / folder / "clip.mp4") for folder in ("a", "b")]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_help_names_every_output(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["track", "--help"])
    assert {"--save", "--mot", "--csv", "--jsonl", "--show", "--serve", "--push", "--heatmap"} <= set(
        capsys.readouterr().out.split()
    )


def test_a_table_tells_what_each_stream_had(track: Run, two: list[Path]):
    code, out, err = track(*two)
    assert code == 0
    rows = out.splitlines()
    assert rows[0].split()[:3] == ["stream", "frames", "seconds"]
    assert [row.split()[:3] for row in rows[1:]] == [[str(p), "12", "0.37"] for p in two]
    assert all("1 person" in row for row in rows[1:])
    assert [f"{p}: 12 frames" in err for p in two] == [True, True]


def test_json_is_a_line_for_each_frame(track: Run, clip: Path):
    code, out, _ = track(clip, "--format", "json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [f["frame"] for f in found] == list(range(12))
    assert [f["pts_s"] for f in found] == [round(i / 30, 6) for i in range(12)]
    assert {f["source_id"] for f in found} == {str(clip)}
    assert found[-1]["detections"][0]["tracker_id"] == 1
    assert found[-1]["detections"][0]["xyxy"] == [0, 0, 64, 36]


def test_all_files_of_one_stream_are_written(track: Run, clip: Path, tmp_path: Path):
    names = {"save": "o.mp4", "mot": "o.txt", "csv": "o.csv", "jsonl": "o.jsonl"}
    flags = [word for flag, name in names.items() for word in (f"--{flag}", tmp_path / "out" / name)]
    code, out, err = track(clip, "--format", "json", *flags)
    folder = tmp_path / "out"
    assert code == 0
    assert times_of(folder / "o.mp4") == constant(12)
    assert (folder / "o.jsonl").read_text() == out
    table = read_mot(folder / "o.txt")
    assert (table.frame[-1], set(table.track_id.tolist()), table.xywh[-1].tolist()) == (12, {1}, [0, 0, 64, 36])
    rows = list(csv.DictReader(io.StringIO((folder / "o.csv").read_text())))
    assert [int(r["frame"]) for r in rows] == list(range(12))
    assert (rows[-1]["tracker_id"], rows[-1]["class_name"], rows[-1]["x2"], rows[-1]["error"]) == (
        "1",
        "person",
        "64.0",
        "",
    )
    assert all(str(folder / name) in err for name in names.values())


def test_without_a_tracker_objects_have_no_ids(track: Run, clip: Path, tmp_path: Path):
    code, out, err = track(clip, "--tracker", "none", "--format", "json", "--mot", tmp_path / "o.txt")
    assert code == 0
    assert "tracker_id" not in json.loads(out.splitlines()[0])["detections"][0]
    assert set(read_mot(tmp_path / "o.txt").track_id.tolist()) == {-1}
    assert "found 12 person" in err


def test_several_streams_get_a_file_each(track: Run, two: list[Path], tmp_path: Path):
    out = tmp_path / "out"
    code, *_ = track(*two, "--save", out, "--mot", out, "--jsonl", out / "all.jsonl")
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == ["all.jsonl", "clip-2.mp4", "clip-2.txt", "clip.mp4", "clip.txt"]
    assert [len(times_of(out / name)) for name in ("clip.mp4", "clip-2.mp4")] == [12, 12]
    assert {line["source_id"] for line in lines(out / "all.jsonl")} == set(map(str, two))


def test_a_list_file_is_a_wall_of_streams(track: Run, two: list[Path], tmp_path: Path):
    (tmp_path / "wall.streams").write_text("a/clip.mp4\nb/clip.mp4\n")
    code, out, _ = track(tmp_path / "wall.streams")
    assert code == 0
    assert len(out.splitlines()) == 3


def test_a_stream_that_is_missing_is_told_of_and_the_others_go_on(track: Run, clip: Path, tmp_path: Path):
    code, out, err = track(clip, tmp_path / "none.mp4")
    assert code == 1
    assert "none.mp4" in err
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(("flag", "value", "n"), [("--frames", 5, 5), ("--seconds", 0.1, 3)])
def test_a_run_can_stop_early(track: Run, two: list[Path], flag: str, value: object, n: int):
    _, out, _ = track(*two, flag, value, "--format", "json")
    assert len(out.splitlines()) == 2 * n


def test_a_video_on_standard_input_is_followed(tmp_path: Path):
    data = b"".join(clips.jpeg(27) for _ in range(6))
    command = [sys.executable, "-m", "eyas", "track", "-", *NULL, "--format", "json"]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["source_id"] for line in done.stdout.splitlines()] == ["stdin"] * 6


def piped(data: bytes, *flags: str) -> str:
    """What is said of what cannot be followed."""
    command = [sys.executable, "-m", "eyas", "track", "-", *NULL, *flags]
    done = subprocess.run(command, input=data, capture_output=True, text=False, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    return done.stderr.decode()


def test_an_mp4_that_a_pipe_cannot_give_is_named_and_so_is_the_way_out():
    said = piped((SAMPLES / "parade.mp4").read_bytes())
    assert "got an MP4 or MOV file whose index (moov) lies behind its pictures; expected MJPEG, mkv, ts" in said
    assert "Name the file in place of -" in said


def test_a_container_is_not_taken_for_bare_pixels(tmp_path: Path):
    data = write(tmp_path / "v.mkv", constant(3)).read_bytes()
    assert "holds no bare pixels: got a Matroska or WebM file" in piped(data, "--raw", "64x36")


@pytest.mark.parametrize(("data", "got"), [(b"", "got nothing;"), (b"no video " * 99, "got what libav finds no video")])
def test_what_is_no_video_on_standard_input_is_told_what_may_be(data: bytes, got: str):
    said = piped(data)
    assert got in said
    assert "--raw WIDTHxHEIGHT" in said


def test_bare_pixels_are_read_as_told(tmp_path: Path):
    command = [sys.executable, "-m", "eyas", "track", "-", "--raw", "64x36", "--rate", "10", *NULL, "--format", "json"]
    done = subprocess.run(command, input=bytes([BRIGHT]) * 64 * 36 * 3 * 4, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(f["width"], f["height"], f["pts_s"]) for f in found] == [(64, 36, i / 10) for i in range(4)]


def test_a_folder_of_pictures_is_a_video(track: Run, tmp_path: Path):
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((36, 64, 3), BRIGHT, np.uint8))
    _, out, _ = track(tmp_path, "--rate", 5, "--format", "json")
    assert [json.loads(line)["pts_s"] for line in out.splitlines()] == [0, 0.2, 0.4, 0.6]


def test_crossings_are_counted_and_heat_is_drawn(track: Run, clip: Path, tmp_path: Path):
    zone = "all=0%,0%,100%,0%,100%,100%,0%,100%"
    code, *_ = track(clip, "--zone", zone, "--events", tmp_path / "e.jsonl", "--heatmap", tmp_path / "h.png")
    assert code == 0
    assert [line["kind"] for line in lines(tmp_path / "e.jsonl")][-1] == "summary"
    assert cv2.imread(str(tmp_path / "h.png")).shape == (36, 64, 3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--save", "one.mp4"], "one file for 2 streams.*--save one;"),
        (["--mot", "one.txt"], "one file for 2 streams"),
        (["--heatmap", "one.png"], "one file for 2 streams"),
        (["--push", "rtmp://127.0.0.1:1/x"], "--push sends one stream"),
    ],
)
def test_one_file_for_two_streams_is_refused(track: Run, two: list[Path], flags: list[str], words: str):
    code, _, err = track(*two, *flags)
    assert code == 2
    assert words.split(".*")[0] in err
    assert words.rpartition(".*")[2] in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tracker", "best"], "invalid choice: 'best'"),
        (["--tracker-option", "speed=9"], "deepsort has no such option: got speed"),
        (["--tracker-option", "speed"], "expected NAME=VALUE"),
        (["--tracker", "deepsort", "--reid", "nanodet"], "does not re-identify: got the task detect"),
        (["--events", "e.jsonl"], "nothing to tell events of"),
        (["--tracker", "none", "--line", "x=1,1,9,9"], "cannot be counted: got --tracker none"),
        (
            ["--line", "x=1,1,999,9"],
            "'x' reaches out of the picture: got ((1.0, 1.0), (999.0, 9.0)); expected x from 0 to 64",
        ),
        (["--tracker-option", "max_age=1", "--tracker-option", "max_age=2"], "names a setting twice: got max_age"),
        (["--rate", "10"], "--rate has no use"),
        (["--push", ""], "--push goes to a server: got ''"),
        (["--push", "o.mp4"], "--push goes to a server: got 'o.mp4'"),
        (["--reid", ""], "there is no model"),
        (["--serve", "70000"], "up to 65535"),
        (["--csv", "x", "--jsonl", "x"], "two outputs have one file"),
        (["--save", "x.avi"], "video cannot go there: got x.avi"),
        (["--seconds", "0"], "--seconds is wrong"),
        (["--tracker-option", "frame_rate=fast"], "the frame rate is wrong: got fast"),
        (["--heatmap", "h.jpg"], "the heat map cannot go there: got h.jpg; expected a file named .png"),
        (["--trace", "x", "--csv", "x"], "two outputs have one file"),
        (["--raw", "64"], "expected WIDTHxHEIGHT"),
        (["--serve", "web"], "expected PORT or HOST:PORT"),
    ],
)
def test_what_cannot_work_is_refused(
    track: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], words: str
):
    monkeypatch.chdir(tmp_path)
    code, _, err = track(clip, *flags)
    assert code == 2
    assert words in err


@pytest.mark.parametrize("name", ["new\nline.mp4", "esc\x1b[2Jape.mp4"])
def test_a_source_s_name_stays_in_its_line(track: Run, clip: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(clip.parent)
    _, out, err = track(clip.rename(name))
    shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert [row.split()[0].endswith(shown) for row in out.splitlines()] == [False, True]
    assert f"{shown}: 12 frames" in err


@pytest.mark.parametrize("name", ["new\nline.mp4", "esc\x1b[2Jape.mp4"])
def test_a_source_s_name_stays_in_its_warning(track: Run, clip: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(clip.parent)
    Path(name).touch()
    code, _, err = track(clip, name)
    shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert code == 1
    assert f"eyas: {shown} is empty: got 0 bytes" in err


def test_a_rule_that_does_not_fit_is_refused_before_a_row_is_written(track: Run, clip: Path, tmp_path: Path):
    places = {flag: tmp_path / f"o.{flag}" for flag in ("csv", "jsonl", "events")}
    places["save"] = tmp_path / "o.mp4"
    flags = [word for flag, place in places.items() for word in (f"--{flag}", place)]
    code, _, err = track(clip, "--zone", "shop=0,0,99,0,99,20", *flags)
    assert code == 2
    assert "'shop' reaches out of the picture" in err
    assert ": 0 frames" in err
    assert (places["jsonl"].read_text(), len(places["csv"].read_text().splitlines())) == ("", 1)
    assert [str(place) in err for place in places.values()] == [place.exists() for place in places.values()]


def test_a_rule_s_unknown_class_is_told_before_a_file_is_begun(track: Run, clip: Path, tmp_path: Path):
    rules = {"lines": [{"name": "door", "start": [1, 1], "end": [9, 9], "classes": ["persn"]}]}
    (tmp_path / "r.json").write_text(json.dumps(rules))
    (tmp_path / "o.csv").write_text("of another run\n")
    code, _, err = track(clip, "--rules", tmp_path / "r.json", "--csv", tmp_path / "o.csv")
    assert code == 2
    assert "the model has no such class: got persn" in err
    assert (tmp_path / "o.csv").read_text() == "of another run\n"


def test_pictures_are_no_bare_pixels(track: Run, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "0.png"), np.full((36, 64, 3), BRIGHT, np.uint8))
    code, _, err = track(tmp_path, "--raw", "64x36")
    assert code == 2
    assert "bare pixels (--raw, raw) cannot be read there" in err


def test_a_source_is_not_written_over(track: Run, two: list[Path]):
    before = two[0].read_bytes()
    code, _, err = track(*two, "--save", two[0].parent)
    assert code == 2
    assert "a file that is read would be written over" in err
    assert two[0].read_bytes() == before


@pytest.mark.parametrize("flag", ["--csv", "--jsonl", "--mot", "--trace"])
def test_no_input_is_written_over(track: Run, clip: Path, tmp_path: Path, flag: str):
    listed, rules, names = (tmp_path / name for name in ("all.streams", "rules.json", "names.txt"))
    listed.write_text("clip.mp4\n")
    rules.write_text('{"lines": [{"name": "door", "start": [0, 0], "end": [9, 9]}]}')
    names.write_text("".join(f"class {i}\n" for i in range(80)))
    for place in (clip, listed, rules, names):
        before = place.read_bytes()
        code, _, err = track(listed, "--rules", rules, "--names", names, flag, place)
        assert code == 2
        assert "a file that is read would be written over" in err
        assert place.read_bytes() == before


def test_no_picture_of_a_folder_is_written_over(track: Run, tmp_path: Path):
    picture = tmp_path / "shots" / "0.png"
    picture.parent.mkdir()
    cv2.imwrite(str(picture), np.full((36, 64, 3), BRIGHT, np.uint8))
    before = picture.read_bytes()
    code, _, err = track(picture.parent, "--rate", 5, "--heatmap", picture)
    assert code == 2
    assert "a file that is read would be written over" in err
    assert picture.read_bytes() == before


def test_the_same_source_twice_is_refused(track: Run, clip: Path):
    assert track(clip, clip)[0] == 2


@pytest.mark.parametrize(("module", "extra"), [("av", "video"), ("trackers", "track")])
def test_a_missing_extra_is_named(track: Run, clip: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = track(clip, "--tracker", "sort")
    assert code == 2
    assert f"pip install 'eyas[{extra}]'" in err


def test_a_video_given_to_predict_is_sent_here(clip: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["predict", str(clip), *NULL]) == 2
    err = capsys.readouterr().err
    assert f"`eyas track {clip}`" in err
    assert "--tracker none" in err


def test_a_browser_is_shown_every_frame_of_every_stream(track: Run, two: list[Path], monkeypatch: pytest.MonkeyPatch):
    sizes: list[tuple[int, ...]] = []
    monkeypatch.setattr("eyas.video.MjpegServer.add", lambda self, image: sizes.append(image.shape))
    code, _, err = track(*two, "--serve", 0)
    assert code == 0
    assert "watch it at http://127.0.0.1:" in err
    assert sizes == [(1080, 1920, 3)] * 24


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_minutes_of_changing_rates_stay_in_step_from_file_to_drawn_file(track: Run, tmp_path: Path):
    times = clips.mixed(18_000)
    assert times[-1] > 590
    greys = [20 + 40 * (i % 5) for i in range(len(times))]
    write(tmp_path / "long.mp4", times, gop=250, images=(np.full((36, 64, 3), g, np.uint8) for g in greys))
    code, *_ = track(tmp_path / "long.mp4", "--save", tmp_path / "o.mp4", "--jsonl", tmp_path / "o.jsonl")
    assert code == 0
    told = [line["pts_s"] for line in lines(tmp_path / "o.jsonl")]
    assert told == pytest.approx([float(t) for t in times], abs=1e-6)
    with clips.av.open(str(tmp_path / "o.mp4")) as file:
        drawn = [(f.pts * f.time_base, f.to_ndarray(format="bgr24")[16:28, 44:58].mean()) for f in file.decode(video=0)]
    assert [at for at, _ in drawn] == times
    apart = np.abs(np.subtract([value for _, value in drawn], greys))
    assert apart.max() < 20, "each picture is at its own time: those beside it differ by 40"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_whole_files(tmp_path: Path, number: signal.Signals, code: int):
    answers: dict[str, clips.Answer] = {}
    with Server(answers) as server:
        answers["/cam"] = server.mjpeg(fps=50)
        files = {"save": tmp_path / "o.mp4", "jsonl": tmp_path / "o.jsonl", "mot": tmp_path / "o.txt"}
        flags = [word for flag, place in files.items() for word in (f"--{flag}", str(place))]
        command = [sys.executable, "-m", "eyas", "track", server.url("/cam"), *NULL, *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not (
                files["jsonl"].exists() and files["jsonl"].stat().st_size > 9000
            ):
                time.sleep(0.05)
            process.send_signal(number)
            try:
                out, err = process.communicate(timeout=30)
            finally:
                process.kill()
    assert process.returncode == code, err
    written = lines(files["jsonl"])
    assert len(written) > 20
    assert len(times_of(files["save"])) == len(written)
    assert files["mot"].read_bytes().endswith(b"\n")
    assert b"/cam" in out


def test_a_server_that_is_not_there_ends_the_run(track: Run, clip: Path):
    code, _, err = track(clip, "--push", "rtmp://user:word@127.0.0.1:1/x")
    assert code == 2
    assert "cannot write rtmp://127.0.0.1:1/x" in err


@pytest.mark.slow
def test_a_drawn_video_can_be_sent_to_an_rtsp_server(tmp_path: Path, clip: Path):
    server = subprocess.Popen([sys.executable, "-c", RECORDER], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    port = server.stdout.readline().strip()
    command = [sys.executable, "-m", "eyas", "track", str(clip), *NULL, "--push", f"rtsp://127.0.0.1:{port}/x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = server.communicate(timeout=30)[0].split()
    assert done.returncode == 0, done.stderr
    assert [said[0], *said[-3:-1]] == ["OPTIONS", "RECORD", "TEARDOWN"]
    assert int(said[-1]) > 500


# A server that takes what is sent to it (RFC 2326: ANNOUNCE, SETUP, RECORD, interleaved packets), in a process of its
# own since libav holds Python's lock while it connects. Prints its port, then what it was asked and how many bytes
# came.
RECORDER = """
import contextlib, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
client, _ = listener.accept()
file, verbs, size = client.makefile("rb"), [], 0
with contextlib.suppress(ConnectionError):  # it hangs up without reading the last answer
    while first := file.peek(1)[:1]:
        if first == b"$":
            n = int.from_bytes(file.read(4)[2:], "big")
            size += len(file.read(n))
            continue
        verbs.append(file.readline().decode().split()[0])
        head = {}
        while line := file.readline().decode().strip():
            name, _, value = line.partition(":")
            head[name.lower()] = value.strip()
        file.read(int(head.get("content-length", 0)))
        more = f"Transport: {head['transport']}\\r\\nSession: 1\\r\\n" if verbs[-1] == "SETUP" else ""
        client.sendall(f"RTSP/1.0 200 OK\\r\\nCSeq: {head['cseq']}\\r\\n{more}\\r\\n".encode())
print(*verbs, size)
"""


# ---- flags, names ----


@pytest.mark.parametrize(
    ("text", "value"), [("a=3", 3), ("a=0.5", 0.5), ("a=false", False), ("a=None", None), ("a=orb", "orb")]
)
def test_a_tracker_s_option_is_what_it_looks_like(text: str, value: object):
    assert _option(text) == ("a", value)


def test_only_this_machine_may_look_unless_a_host_is_named():
    assert _address("8080") == ("127.0.0.1", 8080)
    assert _address("0.0.0.0:80") == ("0.0.0.0", 80)  # noqa: S104


def test_each_stream_s_files_have_a_name_of_their_own():
    ids = [
        "a/clip.mp4",
        "b/Clip.mkv",
        "rtsp://x/live/1?k=v",
        "camera 0",
        "shots/*.png",
        "stdin",
        "http://x/",
        "a/clip.mp4",
    ]
    assert file_names(ids) == ["clip", "Clip-2", "1", "camera-0", "stream", "stdin", "x", "clip-3"]


# ---- pictures ----


def seen(x: float, *, i: int = 1, pts_s: float = 0.0, epoch: int = 0) -> tuple[VideoFrame, Detections]:
    """An object of 20 pixels whose lower edge is at y = 80, in a black picture of 100 × 200."""
    box = np.array([[x, 60, x + 20, 80]], np.float32)
    found = Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64), ("thing",), np.array([i]))
    return VideoFrame(np.zeros((100, 200, 3), np.uint8), 0, "a", pts_s, epoch), found


def behind(image: Image) -> int:
    """How many pixels are drawn left of x = 100."""
    return int(image[:, :100].any(axis=2).sum())


def test_a_trail_is_drawn_where_an_object_was():
    painter = Painter()
    painter.draw(*seen(20))
    assert painter.draw(*seen(150, pts_s=1))[80, 40:100].any(axis=1).all()


@pytest.mark.parametrize(
    "later", [{"pts_s": 9.0}, {"pts_s": 1.0, "epoch": 1}, {"pts_s": 1.0, "i": 2}], ids=["time", "epoch", "other"]
)
def test_a_trail_ends_with_its_time_its_track_and_a_gap(later: dict[str, Any]):
    painter = Painter(labels=False)
    painter.draw(*seen(20))
    assert behind(painter.draw(*seen(150, **later))) == 0


def test_no_trail_is_drawn_where_none_is_wanted():
    painter = Painter(trail_s=0, labels=False)
    painter.draw(*seen(20))
    assert behind(painter.draw(*seen(150, pts_s=1))) == 0


def test_each_id_has_its_colour_and_the_frame_is_left_alone():
    frame, found = seen(150)
    drawn = [Painter(labels=False).draw(*seen(150, i=i)) for i in (1, 2)]
    assert (drawn[0] != drawn[1]).any()
    Painter().draw(frame, found)
    assert not frame.image.any()


def test_a_wall_has_a_tile_for_each_stream():
    wall = Wall(["a", "b", "c"], (200, 400))
    first = wall.put("a", np.full((100, 200, 3), 50, np.uint8))
    second = wall.put("c", np.full((100, 200, 3), 90, np.uint8))
    assert second.shape == (200, 400, 3)
    assert [second[y, x, 0] for y, x in ((50, 100), (50, 300), (150, 100), (150, 300))] == [50, 0, 90, 0]
    assert not first[150].any(), "what was handed out does not change"


def test_a_wall_of_one_is_its_picture():
    image = np.zeros((10, 20, 3), np.uint8)
    assert Wall(["a"]).put("a", image) is image


# ---- the window ----


class Screen:
    """In place of OpenCV's windows. keys: what is pressed, one a poll."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keys: list[int]) -> None:
        self.shown: list[Image] = []
        self.open: set[str] = set()
        self.keys = keys
        fakes = {
            "namedWindow": lambda title, flags: self.open.add(title),
            "resizeWindow": lambda title, width, height: None,
            "imshow": lambda title, image: self.shown.append(image),
            "waitKey": lambda ms: self.keys.pop(0) if self.keys else -1,
            "getWindowProperty": lambda title, which: float(title in self.open),
            "destroyWindow": lambda title: self.open.discard(title),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(cv2, name, fake)
        monkeypatch.setenv("DISPLAY", ":0")


def test_a_window_shows_the_newest_picture_once(monkeypatch: pytest.MonkeyPatch):
    screen = Screen(monkeypatch, [])
    with Window() as window:
        assert window.poll()
        for value in (1, 2):
            window.show(np.full((4, 4, 3), value, np.uint8))
        assert window.poll()
        assert window.poll()
    assert [int(image[0, 0, 0]) for image in screen.shown] == [2]
    assert not screen.open


@pytest.mark.parametrize("key", [ord("q"), 27])
def test_q_and_escape_end_a_run_as_it_should(track: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: int):
    screen = Screen(monkeypatch, [-1, -1, key])
    clip = make_clip(tmp_path / "long.mp4", 200)
    code, out, _ = track(clip, "--show", "--save", tmp_path / "o.mp4")
    assert code == 0
    assert 3 <= int(out.splitlines()[1].split()[1]) < 200
    assert len(times_of(tmp_path / "o.mp4")) == int(out.splitlines()[1].split()[1])
    assert not screen.open


def test_q_ends_a_run_while_the_camera_is_silent(track: Run, monkeypatch: pytest.MonkeyPatch):
    Screen(monkeypatch, [*[-1] * 15, ord("q")])
    answers: dict[str, clips.Answer] = {}
    with Server(answers) as server:
        answers["/cam"] = server.mjpeg(fps=50, freeze_at=5)
        code, _, err = track(server.url("/cam"), "--show")
    assert code == 0
    assert "gap" not in err, "nobody waited for the connection to be given up"


def test_a_window_that_is_shut_ends_too(monkeypatch: pytest.MonkeyPatch):
    screen = Screen(monkeypatch, [])
    with Window() as window:
        window.show(np.zeros((4, 4, 3), np.uint8))
        screen.open.clear()
        assert not window.poll()


def test_without_a_display_a_browser_is_the_remedy(track: Run, clip: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("eyas.video.window.sys", SimpleNamespace(platform="linux"))
    code, _, err = track(clip, "--show")
    assert code == 2
    assert "no display" in err
    assert "--serve 8080" in err


def test_only_linux_is_asked_for_a_display():
    check_display({}, "darwin")
    with pytest.raises(BackendError, match="no display"):
        check_display({}, "linux")


def test_an_opencv_without_windows_is_named(monkeypatch: pytest.MonkeyPatch):
    Screen(monkeypatch, [])

    def refuse(*args: object) -> None:
        raise cv2.error("The function is not implemented. Rebuild the library with Windows, GTK+ 2.x or Cocoa support")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(BackendError, match=r"opens no window.*opencv-python.*--serve"):
        Window()


def test_every_tracker_can_be_named() -> None:
    assert {*TRACKERS, "none"} == set(NAMED)
