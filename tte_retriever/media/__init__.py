"""Decode untrusted media, under explicit limits, to PIL images and video frames with their times.

A ``str`` is text, never a path. Media is downloaded only from the hosts in ``MediaLimits.url_hosts``.
"""

from __future__ import annotations

from tte_retriever.media.files import Source
from tte_retriever.media.images import ImageLike, load_image
from tte_retriever.media.inputs import TypedInput, typed_input
from tte_retriever.media.limits import DEFAULT_LIMITS, MediaLimits
from tte_retriever.media.sampling import VideoSampling
from tte_retriever.media.sniff import MediaKind, media_kind
from tte_retriever.media.video import VideoFrames, VideoInfo, VideoLike, iterate_video, load_video, probe_video

__all__ = [
    "DEFAULT_LIMITS",
    "ImageLike",
    "MediaKind",
    "MediaLimits",
    "Source",
    "TypedInput",
    "VideoFrames",
    "VideoInfo",
    "VideoLike",
    "VideoSampling",
    "iterate_video",
    "load_image",
    "load_video",
    "media_kind",
    "probe_video",
    "typed_input",
]
