"""What comes on standard input, told by its first bytes: what can be read without going back goes on to libav.

An mp4 whose index lies behind its pictures cannot: libav would read all of it and then decode nothing.
Sources: ISO/IEC 14496-12 (boxes: four bytes of length, four of type), RFC 8794 (EBML), Microsoft's AVI RIFF reference.
"""

from __future__ import annotations

from eyas.errors import SourceError, problem

HEAD = 64  # bytes that are waited for
MOST_HEAD = 4096  # bytes that may be looked at
TAKEN = "MJPEG, mkv, ts or another video that can be read without going back, or bare pixels and their size"
_REMEDY = "Name the file in place of -; --raw WIDTHxHEIGHT (in Python raw=RawVideo(…)) says what bare pixels are."


def check_pipe(head: bytes, *, bare: bool) -> None:
    """Raise SourceError for what begins so and cannot be followed. bare: pixels are expected, not a container."""
    kind = container_of(head)
    if not head:
        raise unfit("nothing")
    if bare and kind:
        what, expected = "standard input holds no bare pixels", "pixels alone, picture after picture"
        raise SourceError(problem(what, got=kind, expected=expected, remedy="Leave --raw (raw=RawVideo(…)) out."))
    if not bare and kind == "an MP4 or MOV file" and _pictures_first(head):
        raise unfit(f"{kind} whose index (moov) lies behind its pictures")


def unfit(got: str) -> SourceError:
    """What to raise for other data."""
    return SourceError(problem("standard input cannot be followed", got=got, expected=TAKEN, remedy=_REMEDY))


def container_of(head: bytes) -> str | None:
    """Which container begins with these bytes, of three that are often piped; None: another, or none."""
    if head[4:8] == b"ftyp":
        return "an MP4 or MOV file"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "a Matroska or WebM file"
    return "an AVI file" if (head[:4], head[8:12]) == (b"RIFF", b"AVI ") else None


def _pictures_first(head: bytes) -> bool:
    """Whether the box of the pictures (mdat) comes before that of the index (moov), as far as the bytes tell."""
    at = 0
    while len(head) >= at + 8:
        length, kind = int.from_bytes(head[at : at + 4]), head[at + 4 : at + 8]
        if kind in (b"mdat", b"moov"):
            return kind == b"mdat"
        if length < 8:  # 0: to the end; 1: a length of eight bytes, which no box before those two has
            return False
        at += length
    return False
