"""Video in and out: files, cameras and broadcasts as frames with exact times; annotated video, and MJPEG to a browser.

Needs PyAV (`pip install 'eyas[video]'`), which is imported when a video is opened.
"""

from eyas.video.container import RawVideo
from eyas.video.frames import Gap, VideoFrame, VideoStats
from eyas.video.live import Reconnect
from eyas.video.many import VideoSources, open_videos
from eyas.video.mjpeg import MjpegServer
from eyas.video.sink import VideoSink
from eyas.video.source import VideoSource, open_video

__all__ = [
    "Gap",
    "MjpegServer",
    "RawVideo",
    "Reconnect",
    "VideoFrame",
    "VideoSink",
    "VideoSource",
    "VideoSources",
    "VideoStats",
    "open_video",
    "open_videos",
]
