"""The sound of a video file, packet by packet as it is, for the annotated copy of that video."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from eyas.video.container import CONTAINERS
from eyas.video.decode import pyav

log = logging.getLogger("eyas")
PRIMING_S = Fraction(1, 10)  # an encoder's first packet may lie so much before the beginning; earlier ones are left out


class Sound:
    """The first sound stream of a file. template: it, for a muxer. stream: where the packets are to go, set there."""

    def __init__(self, container: Any, template: Any, start_s: Fraction) -> None:
        """Use `of`."""
        self.template, self.stream = template, None
        self._container, self._start_s = container, start_s
        self._packets = self._shifted()
        self._next: Any = next(self._packets, None)
        adts = template.codec_context is not None and template.codec_context.name.startswith("aac")
        adts = (
            adts
            and self._next is not None
            and bytes(self._next)[:1] == b"\xff"
            and not template.codec_context.extradata
        )
        av_filter = pyav().bitstream.BitStreamFilterContext
        self._filter: Any = av_filter("aac_adtstoasc", template) if adts else None  # as broadcasts have it → as files

    @classmethod
    def of(cls, path: str, start_s: Fraction) -> Sound | None:
        """The sound of the file, its times counted from start_s; None where it has none."""
        av = pyav()
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        container = av.open(f"file:{path}", options=options)
        if container.streams.audio:
            return cls(container, container.streams.audio[0], start_s)
        container.close()
        return None

    def until(self, end_s: Fraction) -> Iterator[Any]:
        """The packets that begin before end_s and have not been given yet."""
        while self._next is not None and self._next.dts * self._next.time_base < end_s:
            packet, self._next = self._next, next(self._packets, None)
            found = self._filter.filter(packet) if self._filter else [packet]
            for packet in found:
                packet.stream = self.stream
                yield packet

    def _shifted(self) -> Iterator[Any]:
        av = pyav()
        try:
            for packet in self._container.demux(self.template):
                if packet.dts is None or packet.pts is None:  # the last one, which is empty
                    continue
                shift = round(self._start_s / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                if (packet.pts + (packet.duration or 0)) * packet.time_base > -PRIMING_S:
                    yield packet
        except av.FFmpegError as error:
            log.warning("the sound ends early: %s", error)

    def close(self) -> None:
        """Let go of the file."""
        self._packets.close()  # type: ignore[attr-defined]
        self._container.close()
