"""`eyas track SOURCE…`: follow objects through videos and cameras; drawn, counted, in files, on the screen."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.cli.model import (
    add_engine_flags,
    add_head_flags,
    add_network_flags,
    add_trace_flag,
    count,
    open_model,
    tracing_to,
)
from eyas.errors import OptionError, problem

if TYPE_CHECKING:
    from eyas.cli.track_table import Tally
    from eyas.predictor import Model
    from eyas.tracking.follow import Video
    from eyas.tracking.output import Output
    from eyas.tracking.rules import Rules
    from eyas.types import Frame, Image
    from eyas.video import VideoSink, VideoSource
    from eyas.video.wall import Wall
    from eyas.video.window import Window

TRACKERS = ("deepsort", "bytetrack", "botsort", "ocsort", "sort", "cbiou", "none")
REID_BATCH, MOST_PORT = 8, 65535
PER_STREAM = {"save": ".mp4", "mot": ".txt", "heatmap": ".png"}  # of several streams: a file each, in a folder
WRITTEN = {
    "save": "drawn video",
    "mot": "MOT rows",
    "heatmap": "heat map",
    "csv": "one row an object",
    "jsonl": "one JSON line a frame",
    "events": "events",
}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    p = commands.add_parser(
        "track",
        parents=[common],
        conflict_handler="resolve",  # --conf
        help="follow objects through videos and cameras",
        description="Follow objects through videos and cameras, one tracker a stream.",
    )
    what = "video files, addresses, camera numbers, folders of pictures, lists (.streams); - reads standard input"
    p.add_argument("source", nargs="+", metavar="SOURCE", help=what)
    p.add_argument("-m", "--model", default="nanodet", help="an .onnx file or a bundled model (default nanodet)")
    p.add_argument("--format", choices=["table", "json"], default="table", help="json: one object a frame and line")
    add_head_flags(p)
    how = p.add_argument_group("how objects are followed")
    what = "keep what scores above C (default 0.1 for bytetrack, botsort, cbiou; else 0.25)"
    how.add_argument("--conf", type=float, metavar="C", help=what)
    how.add_argument("--tracker", choices=TRACKERS, default="deepsort", help="default deepsort; none: no ids")
    what = "a tracker's own setting, may be repeated"
    how.add_argument("--tracker-option", metavar="NAME=VALUE", type=_option, action="append", default=[], help=what)
    how.add_argument(
        "--reid", metavar="MODEL", help="with deepsort: what objects look like, such as a person's clothes"
    )
    _add_input_flags(p)
    _add_output_flags(p)
    add_network_flags(p)
    add_engine_flags(p)
    add_trace_flag(p)
    p.set_defaults(run=run)


def _add_input_flags(p: argparse.ArgumentParser) -> None:
    flags = p.add_argument_group("what is read")
    what = "keep only the newest frame and drop others (default: cameras and broadcasts do, files do not)"
    flags.add_argument("--live", action=argparse.BooleanOptionalAction, default=None, help=what)
    what = "gpu: H.264 and H.265 are decoded where the engine is (default host)"
    flags.add_argument("--decode", choices=["host", "gpu"], default="host", help=what)
    flags.add_argument("--raw", metavar="WIDTHxHEIGHT", type=_raw_size, help="the source is bare BGR pixels")
    flags.add_argument("--rate", type=float, metavar="R", help="frames a second of pictures and bare pixels")
    flags.add_argument("--seconds", type=float, metavar="S", help="stop each stream after S seconds of it")
    flags.add_argument("--frames", type=count, metavar="N", help="stop each stream after N frames")


def _add_output_flags(p: argparse.ArgumentParser) -> None:
    out = p.add_argument_group("what is written (a DIR holds a file for each stream)")
    out.add_argument("--save", metavar="FILE|DIR", type=Path, help="drawn video: .mp4, .mov, .mkv; with a file's sound")
    out.add_argument("--mot", metavar="FILE|DIR", type=Path, help="text in the format of the MOT Challenge")
    out.add_argument("--csv", metavar="FILE", type=Path, help="one row an object and frame")
    out.add_argument("--jsonl", metavar="FILE", type=Path, help="one JSON object a frame and line")
    out.add_argument("--show", action="store_true", help="a window; q or Esc ends the run")
    out.add_argument("--serve", metavar="PORT", type=_address, help="show it in a browser; or HOST:PORT")
    out.add_argument("--push", metavar="URL", help="send the drawn video to an rtmp or rtsp server")
    counts = p.add_argument_group("what is counted")
    counts.add_argument("--rules", metavar="FILE", type=Path, help="lines and zones, a JSON file")
    for name, points in {"line": "x1,y1,x2,y2", "zone": "x,y,x,y,x,y…"}.items():
        what = f"a {name}, in pixels, or with %% in hundredths; may be repeated"
        counts.add_argument(f"--{name}", metavar=f"NAME={points}", action="append", default=[], help=what)
    counts.add_argument("--events", metavar="FILE", type=Path, help="crossings and visits as JSON lines")
    counts.add_argument("--heatmap", metavar="FILE|DIR", type=Path, help="a picture of where objects stood")


def run(args: argparse.Namespace) -> int:
    """Follow until all streams end; 1 where a frame or a stream failed."""
    import cv2

    from eyas.cli.table import print_table
    from eyas.cli.track_table import COLUMNS, Tally
    from eyas.tracking.follow import ahead_of, check, check_decode, follow, open_any, rates_of, sources_of
    from eyas.tracking.output import json_line
    from eyas.tracking.rules import check_classes

    tracker = None if args.tracker == "none" else args.tracker
    options = _once(args.tracker_option)
    rules = _rules(args)
    names, settings = _sources(args)
    cv2.setNumThreads(1)  # a thread for each stream: OpenCV's own would only get in the way
    with ExitStack() as stack:
        model = stack.enter_context(open_model(args, "throughput"))
        reid = stack.enter_context(_open_reid(args)) if args.reid is not None else None
        check(model, tracker, reid, options)
        check_decode(model, settings)
        if rules:
            check_classes(rules, model.card.names)
        for each in (model, reid):
            if each:
                each.engine("throughput")
        video = open_any(names[0] if len(names) == 1 else names, **settings)
        stack.callback(video.close)
        tallies = {s.source_id: Tally(s, tracker is not None) for s in sources_of(video)}
        outputs, window = _open_outputs(args, rules, video, stack)
        frames = stack.enter_context(closing(ahead_of(video, _limited(video, tallies, args, rules, window))))
        settings = {"tracker": tracker, "reid": reid, "tracker_options": options, "rates": rates_of(video)}
        found = follow(model, frames, conf=args.conf, iou=args.iou, **settings)
        try:
            with tracing_to(args.trace), closing(found):
                for prediction in found:
                    outputs[prediction.source_id].put(prediction)
                    tallies[prediction.source_id].add(prediction)
                    if args.format == "json":
                        sys.stdout.write(json_line(prediction))
                        sys.stdout.flush()
                    if window and not window.poll():
                        break
                for output in outputs.values():
                    output.close()
        finally:
            for name, output in outputs.items():
                tallies[name].unwritten = output.dropped
            if args.format == "table":
                print_table(COLUMNS, [tally.row() for tally in tallies.values()])
            if not args.quiet:
                _summary(args, tallies.values())
    failed = getattr(video, "failed", {})
    return 1 if failed or any(t.failed for t in tallies.values()) else 0


def _sources(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """What is to be opened, lists replaced by what they name, and the settings for it."""
    from eyas.tracking.follow import is_list
    from eyas.video import RawVideo
    from eyas.video.target import listed_sources, target_of

    names = [name for s in args.source for name in (listed_sources(s) if is_list(s) else [s])]
    if len(names) == 1:
        target_of(names[0])  # what is not there is told of before a model is compiled
    if args.rate is not None and not args.raw and not any(_has_no_rate(name) for name in names):
        what, expected = "--rate has no use", "pictures, or bare pixels (--raw): a video has its own times"
        raise OptionError(problem(what, got=", ".join(names), expected=expected, remedy="Leave --rate out."))
    if args.seconds is not None and not args.seconds > 0:
        raise OptionError(problem("--seconds is wrong", got=args.seconds, expected="more than 0", remedy=""))
    settings: dict[str, Any] = {"live": args.live, "decode": args.decode}
    if args.device:
        settings["device"] = args.device.split(",")[0]  # of several, where frames are decoded
    rate = {} if args.rate is None else {"rate": args.rate}
    if args.raw:
        settings["raw"] = RawVideo(*args.raw, **rate)
    return names, settings | rate


def _has_no_rate(name: str) -> bool:
    """Whether it names pictures in a row, or what cannot be opened, which is told of later."""
    from eyas.errors import SourceError
    from eyas.video.target import target_of

    try:
        return target_of(name).kind == "pictures"
    except SourceError:
        return True


def _open_reid(args: argparse.Namespace) -> Model:
    from eyas.loading import load

    return load(args.reid, backend=args.backend, device=args.device, batch=REID_BATCH, hint="throughput")


def _limited(
    video: Video, tallies: Mapping[str, Tally], args: argparse.Namespace, rules: Rules | None, window: Window | None
) -> Iterator[Frame | None]:
    """The frames up to --seconds and --frames of each stream, and a word to its tally; None where live ones pause.

    Raises OptionError where a rule does not fit a stream's first frame.
    """
    from eyas.tracking.rules import check_fit

    for frame in video.pulses():
        if frame is None:
            if window and not window.poll():
                return
            yield None
            continue
        tally = tallies[frame.source_id]
        if rules and not tally.taken:
            check_fit(rules, frame.size)
        late = args.seconds is not None and frame.pts_s is not None and frame.pts_s >= args.seconds
        if not late and (args.frames is None or tally.taken < args.frames):
            tally.begin(frame)
            yield frame
        if late or tally.taken == args.frames:
            tally.source.close()


def _rules(args: argparse.Namespace) -> Rules | None:
    """What is to be counted. Raises OptionError where that, or who is counted, is missing."""
    from dataclasses import replace

    from eyas.tracking.rules import Rules, read_rules, rules_of

    more = rules_of(args.line, args.zone)
    rules = read_rules(args.rules) if args.rules else Rules()
    rules = replace(rules, lines=rules.lines + more.lines, zones=rules.zones + more.zones)
    counted = bool(rules.lines or rules.zones)
    if args.events and not counted:
        expected, remedy = "a line or a zone", "--line, --zone and --rules name them."
        raise OptionError(problem("there is nothing to tell events of", got="none", expected=expected, remedy=remedy))
    if (counted or args.heatmap) and args.tracker == "none":
        what, expected = "objects without ids cannot be counted", "a tracker"
        raise OptionError(problem(what, got="--tracker none", expected=expected, remedy="Leave --tracker out."))
    return rules if counted or args.heatmap else None


def _open_outputs(
    args: argparse.Namespace, rules: Rules | None, video: Video, stack: ExitStack
) -> tuple[dict[str, Output], Any]:
    """What each stream is written to, and the window; the stack closes both."""
    from eyas.tracking.follow import sources_of
    from eyas.tracking.output import CSV_HEADER, Counting, LineFile, Output, csv_lines, file_names, json_line, mot_text
    from eyas.video import MjpegServer, VideoSink
    from eyas.video.overlap import WriteBehind
    from eyas.video.wall import Wall
    from eyas.video.window import Window

    sources = sources_of(video)
    ids = [s.source_id for s in sources]
    files = _files(args, sources, file_names(ids))
    if args.push is not None and "://" not in args.push:
        what, expected = "--push goes to a server", "an address that begins with rtmp://, rtmps:// or rtsp://"
        raise OptionError(problem(what, got=repr(args.push), expected=expected, remedy="--save FILE writes a file."))
    if args.push and len(ids) > 1:
        what, got = "--push sends one stream", f"{len(ids)} streams"
        raise OptionError(problem(what, got=got, expected="one", remedy="Run a command for each."))
    window = stack.enter_context(Window()) if args.show else None
    server = stack.enter_context(MjpegServer(args.serve[1], host=args.serve[0])) if args.serve else None
    if server and not args.quiet:
        print(f"eyas: watch it at {server.url}", file=sys.stderr)
    shared = [
        (stack.enter_context(LineFile(place, header)), lines)
        for place, header, lines in ((args.csv, CSV_HEADER, csv_lines), (args.jsonl, "", json_line))
        if place
    ]
    events = stack.enter_context(LineFile(args.events)) if args.events else None
    walls = [(show, Wall(ids)) for show in (window and window.show, server and server.add) if show]
    outputs: dict[str, Output] = {}
    sinks: list[VideoSink] = []
    for i, source in enumerate(sources):
        places = {flag: paths[i] for flag, paths in files.items()}
        output = Output(source.source_id, list(shared))
        if rules:
            output.counting = Counting(rules, events, places.get("heatmap"))
        if "mot" in places:
            output.lines.append((stack.enter_context(LineFile(places["mot"])), mot_text))
        for place in (places.get("save"), args.push):
            if place:
                sound = source if place is not args.push else None
                sinks.append(stack.enter_context(VideoSink(place, sound_of=sound)))
                behind = WriteBehind(sinks[-1].add, f"encoder {source.source_id}", lossy=source.live)
                output.encoders.append(stack.enter_context(closing(behind)))
        output.shows += [partial(_hang, show, wall, source.source_id) for show, wall in walls]
        outputs[source.source_id] = stack.enter_context(closing(output))
    stack.push(partial(_hurry, sinks))
    return outputs, window


def _hurry(sinks: Sequence[VideoSink], kind: type[BaseException] | None, *_: object) -> None:
    """After an interruption or an error no server is waited for as long as usual."""
    if kind:
        for sink in sinks:
            sink.hurry()


def _hang(show: Callable[[Image], None], wall: Wall, name: str, image: Image, pts_s: float | None) -> None:
    """Show the wall with a stream's new picture."""
    show(wall.put(name, image))


def _files(args: argparse.Namespace, sources: Sequence[VideoSource], names: list[str]) -> dict[str, list[Path]]:
    """The files of each stream, by flag. Raises OptionError where one would be written over what is read."""
    from eyas.tracking.output import files_for

    wanted = {flag: getattr(args, flag) for flag in PER_STREAM if getattr(args, flag)}
    files = {flag: files_for(f"--{flag}", place, names, PER_STREAM[flag]) for flag, place in wanted.items()}
    for place in files.get("heatmap", []):
        if place.suffix.lower() != ".png":
            expected = "a file named .png, or a folder"
            raise OptionError(problem("the heat map cannot go there", got=place, expected=expected, remedy=""))
    singles = [p for p in (args.csv, args.jsonl, args.events, args.trace) if p]
    places = [*singles, *(p for paths in files.values() for p in paths)]
    read = _read(args, sources)
    for place in places:
        if place.resolve() in read:
            what, expected = "a file that is read would be written over", "another file or folder"
            raise OptionError(problem(what, got=str(place), expected=expected, remedy=""))
    if len({p.resolve() for p in places}) < len(places):
        what, got = "two outputs have one file", ", ".join(map(str, places))
        raise OptionError(problem(what, got=got, expected="a file for each", remedy=""))
    return files


def _read(args: argparse.Namespace, sources: Sequence[VideoSource]) -> set[Path]:
    """The files that the run reads: videos, pictures, lists of sources, models and what describes them."""
    from contextlib import suppress

    from eyas.errors import SourceError
    from eyas.imagefile import MAX_PIXELS
    from eyas.video.target import listed_pictures, target_of

    paths = [*args.source, args.model, args.reid, args.rules, args.names, args.card, *(s.path for s in sources)]
    for source in sources:
        with suppress(SourceError):  # a camera, standard input
            if target_of(source.source_id).kind == "pictures":
                paths += [picture.source_id for picture in listed_pictures(source.source_id, MAX_PIXELS)]
    return {Path(p).resolve() for p in paths if p}


def _summary(args: argparse.Namespace, tallies: Any) -> None:
    for tally in tallies:
        print(f"eyas: {tally.told()}", file=sys.stderr)
    for flag, what in WRITTEN.items():
        place = getattr(args, flag)
        if place and place.exists():  # a run that fails early has not begun all of them
            print(f"eyas: {what} in {place}", file=sys.stderr)


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE; numbers, true, false and none are taken as such."""
    name, found, value = text.partition("=")
    if not name or not found:
        raise argparse.ArgumentTypeError(problem("not a setting", got=text, expected="NAME=VALUE", remedy=""))
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The settings by name. Raises OptionError where one is given twice."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        what, expected = "--tracker-option names a setting twice", "each once"
        raise OptionError(problem(what, got=", ".join(twice), expected=expected, remedy="Leave one of them out."))
    return dict(pairs)


def _raw_size(text: str) -> tuple[int, int]:
    """1280x720 → (1280, 720): width first, as in every player."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(problem("not a size", got=text, expected="WIDTHxHEIGHT", remedy=""))
    return int(parts[0]), int(parts[1])


def _address(text: str) -> tuple[str, int]:
    """8080 → this machine only; 0.0.0.0:8080 → everybody."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > MOST_PORT:
        expected = "PORT or HOST:PORT, up to 65535"
        raise argparse.ArgumentTypeError(problem("not a port", got=text, expected=expected, remedy=""))
    return host or "127.0.0.1", int(port)
