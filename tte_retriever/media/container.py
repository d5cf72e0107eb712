"""Decode video containers with PyAV: the exact frames at given instants, with as little decoding as possible."""

from __future__ import annotations

import math
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import av
from PIL import Image

from tte_retriever.errors import MediaError
from tte_retriever.media.decoders import video_codecs
from tte_retriever.media.files import Source, corrupt_if_it_fails, describe, open_source, read_head
from tte_retriever.media.images import check_size
from tte_retriever.media.signatures import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from tte_retriever.errors import MediaReason
    from tte_retriever.media.limits import MediaLimits

# Containers that store an index and the time of every frame. In others, times depend on where reading began (MPEG-PS) or
# follow the order of decoding (AVI), so only reading from the start always gives the same frames.
_EXACT_SEEKING = ("mov", "matroska")
_SLACK_S = 1e-6  # rounding error of times, which are floats
_UPRIGHT = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class Container:
    """The video stream of a file, with times from 0; made by :func:`open_container`.

    Attributes:
        size: Displayed width and height in pixels, after the rotation in the file's metadata.
        duration_s: From the stream's start to the end of its last frame, in seconds, measured from the packets.
    """

    def __init__(self, reader: _Reader, source: Source, limits: MediaLimits) -> None:
        self._scout, self._source, self._limits = reader, source, limits
        self.duration_s = self._measure()
        if self.duration_s > limits.max_seconds:
            message = f"{describe(source)} lasts {self.duration_s:.1f} s; at most {limits.max_seconds} s are opened"
            raise MediaError(f"{message} (MediaLimits.max_seconds)", "too-large")
        with _open_reader(source, limits) as decoder:
            if (first := next(decoder.frames(), None)) is None:
                message = f"{describe(source)} has no frame that can be decoded; give a complete file"
                raise MediaError(message, "corrupt")
            self.size = decoder.to_image(first.frame).size

    def frames_at(self, instants_s: Sequence[float], *, seek: bool = True) -> list[tuple[float, Image.Image]]:
        """Return the frame on screen at each instant, with the time when it appeared, in seconds.

        The frame on screen is the last one whose time is not after the instant, or else the first frame.

        Args:
            instants_s: Seconds from the start of the stream, ascending.
            seek: Jump to the last keyframe before an instant where that saves decoding. The frames are the same either
                way.
        """
        shown: list[tuple[float, Image.Image]] = []
        converted: VideoFrame | None = None
        with _open_reader(self._source, self._limits) as decoder:
            playhead = _Playhead(decoder.frames())
            for instant in instants_s:
                keyframe = self._scout.keyframe_before(instant) if seek and playhead.must_move(instant) else None
                if keyframe is not None and keyframe.time_s > playhead.time_s:
                    playhead = _Playhead(decoder.frames(keyframe))
                    if playhead.time_s != keyframe.time_s:  # the decoder cannot start there after all
                        return self.frames_at(instants_s, seek=False)
                current = playhead.move_to(instant)
                again = current.frame is converted
                shown.append(shown[-1] if again else (current.time_s, decoder.to_image(current.frame)))
                converted = current.frame
        return shown

    def frames_between(
        self, start_s: float, end_s: float, *, seek: bool = True
    ) -> Iterator[tuple[float, Image.Image]]:
        """Yield every frame on screen between two times, with the time when it appeared, in seconds.

        Args:
            start_s: Start, in seconds from the start of the stream; the first frame may have appeared before it.
            end_s: End, in seconds.
            seek: As for :meth:`frames_at`.
        """
        with _open_reader(self._source, self._limits) as decoder:
            keyframe = self._scout.keyframe_before(start_s) if seek else None
            frames = decoder.frames(keyframe)
            current = next(frames, None)
            if keyframe is not None and (current is None or current.time_s != keyframe.time_s):
                yield from self.frames_between(start_s, end_s, seek=False)  # the decoder cannot start there after all
                return
            while current is not None and current.time_s < end_s - _SLACK_S:
                ahead = next(frames, None)
                if ahead is None or ahead.time_s > start_s + _SLACK_S:  # else it has left the screen by start_s
                    yield current.time_s, decoder.to_image(current.frame)
                current = ahead

    def _measure(self) -> float:
        declared_s = self._scout.declared_s
        ends = self._scout.ends_s(declared_s - 1.0) if declared_s is not None else None
        if ends is None or ends.video_s is None:  # no declared duration, or no packets there
            with _open_reader(self._source, self._limits) as reader:
                ends = reader.ends_s()
        if ends.video_s is None:
            reason: MediaReason = "empty" if declared_s is None else "corrupt"
            message = f"{describe(self._source)} has a video stream without frames; give a complete file"
            raise MediaError(message, reason)
        # Declared durations are rounded, and some start at 0 instead of the first frame or include a longer soundtrack:
        # only a large gap, in the file's own time, means that the file was cut short.
        if declared_s is not None and ends.file_s < declared_s - max(0.5, 0.05 * declared_s):
            message = f"{describe(self._source)} declares {declared_s:.1f} s and ends after {ends.file_s:.1f} s"
            raise MediaError(f"{message}; give the complete file", "corrupt")
        return max(ends.video_s, 0.0)


@contextmanager
def open_container(source: Source, limits: MediaLimits) -> Iterator[Container]:
    """Open a video file and measure it.

    Raises:
        MediaError: ``unsupported`` (not an allowed container, no video stream, or a codec without a decoder),
            ``corrupt``, ``empty`` or ``too-large``.
    """
    kind = kind_of(read_head(source, limits))
    if kind != "video":
        message = f"{describe(source)} (content: {kind}) is not a video of an allowed format"
        raise MediaError(f"{message} ({', '.join(limits.video_formats)})", "unsupported")
    with corrupt_if_it_fails(source), _open_reader(source, limits) as scout:
        yield Container(scout, source, limits)


class _TimedFrame(NamedTuple):
    time_s: float
    frame: VideoFrame


class _Keyframe(NamedTuple):
    time_s: float
    target_s: float  # seeking to this time arrives at the keyframe or before it


class _Ends(NamedTuple):
    video_s: float | None  # end of the video stream's last packet; None without packets
    file_s: float  # end of the last packet of any stream, in the file's own time, which need not start at 0


class _Playhead:
    """A position in a stream of decoded frames, which are read one frame ahead of the screen."""

    def __init__(self, frames: Iterator[_TimedFrame]) -> None:
        self._frames = frames
        self._current: _TimedFrame | None = None
        self._ahead = next(frames, None)

    @property
    def time_s(self) -> float:
        """The time of the newest decoded frame; infinite at the end."""
        return math.inf if self._ahead is None else self._ahead.time_s

    def must_move(self, instant: float) -> bool:
        return self.time_s <= instant + _SLACK_S

    def move_to(self, instant: float) -> _TimedFrame:
        while self._ahead is not None and self.must_move(instant):
            self._current, self._ahead = self._ahead, next(self._frames, None)
        current = self._current or self._ahead
        assert current is not None, "a container with no frames is refused when it is opened"
        return current


class _Reader:
    """An open container and its video stream. Times are in seconds from the start of that stream."""

    def __init__(self, container: InputContainer, stream: VideoStream, source: Source, limits: MediaLimits) -> None:
        self._container, self.stream, self._source, self._limits = container, stream, source, limits
        self._time_base = stream.time_base or Fraction(1, av.time_base)
        self._start = stream.start_time or 0  # in units of the time base
        self._size = (stream.codec_context.width, stream.codec_context.height)
        check_size(self._size, source, limits)
        stream.thread_type = "AUTO"

    @property
    def declared_s(self) -> float | None:
        """The duration in the headers, of the video stream or else of the file; None without one."""
        if self.stream.duration:
            return float(self.stream.duration * self._time_base)
        return self._container.duration / av.time_base if self._container.duration else None

    def frames(self, keyframe: _Keyframe | None = None) -> Iterator[_TimedFrame]:
        """Decode frames in order of presentation, from the current position or from a keyframe."""
        latest = -math.inf
        waiting_for = keyframe
        if keyframe is not None:
            self._seek(keyframe.target_s)
        for packet in self._container.demux(self.stream):
            if waiting_for is not None and not (packet.is_keyframe and self._time_s(packet) == waiting_for.time_s):
                continue
            waiting_for = None
            for frame in packet.decode():
                time_s = self._time_s(frame)
                # Where the times in a file run backwards (AVI), the order of the frames is right.
                latest = latest if time_s is None else max(latest, time_s)
                yield _TimedFrame(latest if math.isfinite(latest) else 0.0, frame)

    def keyframe_before(self, instant: float) -> _Keyframe | None:
        """Find a keyframe close before an instant, without decoding; None if decoding on is the only way."""
        if not self._container.format.name.startswith(_EXACT_SEEKING):
            return None
        back_s = 0.0
        while instant - back_s > 0:
            target_s = instant - back_s
            try:
                self._seek(target_s)
            except av.FFmpegError:  # the index was cut off
                return None
            packet = next(self._container.demux(self.stream))
            time_s = self._time_s(packet)
            if packet.is_keyframe and time_s is not None and time_s <= instant:
                return _Keyframe(time_s, target_s)
            back_s = max(1.0, 2 * back_s)  # MP4 seeks by time of decoding, which may land a few frames late
        return None

    def ends_s(self, from_s: float | None = None) -> _Ends:
        """Read packets to the end of the file, from a given time or the current position, without decoding."""
        if from_s is not None and from_s > 0:
            try:
                self._seek(from_s)
            except av.FFmpegError:
                return _Ends(None, 0.0)
        rate = self.stream.average_rate
        usual = 1 / float(rate) if rate else 0.0
        origin_s = float(self._start * self._time_base)
        video_s = file_s = -math.inf
        for packet in self._container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None or not packet.time_base:
                continue
            end_s = (stamp + (packet.duration or 0)) * float(packet.time_base)
            file_s = max(file_s, end_s)
            if packet.stream.index == self.stream.index:
                video_s = max(video_s, end_s - origin_s + (0.0 if packet.duration else usual))
        return _Ends(video_s if math.isfinite(video_s) else None, file_s)

    def to_image(self, frame: VideoFrame) -> Image.Image:
        """Convert a frame to upright RGB of the stream's initial size."""
        check_size((frame.width, frame.height), self._source, self._limits)
        image = frame.to_image(width=self._size[0], height=self._size[1])
        turn = _UPRIGHT.get(round(frame.rotation) % 360)
        return image if turn is None else image.transpose(turn)

    def _seek(self, time_s: float) -> None:
        self._container.seek(self._start + math.floor(time_s / self._time_base), stream=self.stream)

    def _time_s(self, timed: Packet | VideoFrame) -> float | None:
        stamp = timed.pts if timed.pts is not None else timed.dts
        return None if stamp is None else float((stamp - self._start) * self._time_base)


@contextmanager
def _open_reader(source: Source, limits: MediaLimits) -> Iterator[_Reader]:
    # PyAV gets an open file, never a name: FFmpeg would take a name as a URL of any protocol.
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(limits.video_formats)}
    with open_source(source, limits) as file:
        try:
            container = av.open(file, mode="r", options=options, metadata_errors="replace")
        except av.ArgumentError as error:  # FFmpeg found a format that is not on the list
            message = f"{describe(source)} is not a video of an allowed format"
            raise MediaError(f"{message} ({', '.join(limits.video_formats)})", "unsupported") from error
        with container:
            yield _Reader(container, _video_stream(container, source), source, limits)


def _video_stream(container: InputContainer, source: Source) -> VideoStream:
    cover_art = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if cover_art not in stream.disposition]
    for stream in streams:
        if stream.codec_context is not None:
            return stream
    if not streams:
        raise MediaError(f"{describe(source)} has no video stream; give a file with pictures", "unsupported")
    message = f"{describe(source)} has video in the codec {video_codecs(container)}, which PyAV was built without"
    raise MediaError(f"{message}; install a build that has it, or convert the file", "unsupported")
