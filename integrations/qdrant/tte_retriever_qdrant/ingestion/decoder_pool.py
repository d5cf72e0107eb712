"""Decode in worker processes: a crash, a hang or running out of memory fails one item, and the pool goes on."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections import deque
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Generic, TypeVar

from tte_retriever.errors import InputError, MediaError, TTEError
from tte_retriever.media.files import describe
from tte_retriever.sources import pixels
from tte_retriever_qdrant.ingestion.worker import Decoded, DecoderSettings, Request

if TYPE_CHECKING:
    from typing_extensions import Self

Key = TypeVar("Key")

DEFAULT_TIME_LIMIT_S = 120.0
"""Longest that one item may take to decode, in seconds."""

DEFAULT_MEMORY_LIMIT = 4 * 1024**3
"""Most memory (address space) that one decoder process may have, in bytes."""

LEAST_MEMORY = 512 * 1024**2
"""Less memory is not enough to start a decoder process, in bytes."""

_START_S = 60.0
_MAX_WAITING_PIXELS = 64_000_000  # decoded and not yet taken: about 200 MB
_BOOTSTRAP = "import sys; sys.path[:] = {path!r}; from {module} import main; main({fd}, {parent})"


def default_workers() -> int:
    """One decoder process less than the machine has cores, for a model on the CPU or its feeding thread; 8 at most."""
    return max(1, min(8, (os.cpu_count() or 2) - 1))


def check_decoding(time_limit_s: float, memory_limit: int) -> None:
    """Refuse limits that no item can be decoded within.

    Raises:
        InputError: There is no time, or too little memory.
    """
    if not time_limit_s > 0:
        raise InputError(f"time_limit_s is {time_limit_s!r}; give a number of seconds above 0")
    if memory_limit < LEAST_MEMORY:
        raise InputError(f"memory_limit is {memory_limit!r}; give {LEAST_MEMORY} bytes or more")


class _Lost(MediaError):
    """The process died, or had to be killed, before it answered."""


class _Worker:
    """One decoder process."""

    def __init__(self, settings: DecoderSettings) -> None:
        self._connection, theirs = Pipe()
        # Not multiprocessing.Process, which would import the user's script again, with torch.
        code = _BOOTSTRAP.format(
            path=sys.path, module=DecoderSettings.__module__, fd=theirs.fileno(), parent=os.getpid()
        )
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C reaches the parent only, which ends its workers itself
            )
        try:
            self._exchange(settings, _START_S)
        except _Lost as error:
            self.kill()
            message = f"a decoder process could not start ({error}); see what it printed above"
            raise TTEError(message) from error

    def ask(self, request: Request, seconds: float) -> Decoded | MediaError:
        """Decode an item; a process that was lost cannot be used again.

        Raises:
            _Lost: The process died, or did not answer in time.
        """
        return self._exchange(request, seconds)

    def kill(self) -> None:
        """End the process at once, and collect it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and the connection."""
        self.kill()
        self._connection.close()

    def _exchange(self, message: object, seconds: float) -> Decoded | MediaError:
        try:
            self._connection.send(message)
            if not self._connection.poll(seconds):
                raise _Lost(f"takes longer than {seconds:g} s to decode", "too-large")
            return self._connection.recv()
        except (OSError, EOFError) as error:
            raise _Lost(f"crashed the decoder (exit status {self._process.wait()})", "corrupt") from error


class DecoderPool(Generic[Key]):
    """Decodes in several processes, and returns answers in the order in which they are done.

    A bounded number of decoded pixels waits to be taken. All methods must be called from one thread.

    Args:
        settings: How to decode.
        workers: How many processes.
        time_limit_s: Longest for one request, in seconds.
    """

    def __init__(self, settings: DecoderSettings, *, workers: int, time_limit_s: float) -> None:
        self.pending = 0
        self._settings, self._time_limit_s = settings, time_limit_s
        self._jobs: queue.SimpleQueue[tuple[Key, Request] | None] = queue.SimpleQueue()
        self._done: deque[tuple[Key, Decoded | MediaError]] = deque()
        self._broken: BaseException | None = None
        self._waiting_pixels = 0
        self._closed = False
        self._changed = threading.Condition()
        self._alive: set[_Worker] = set()
        self._threads = [threading.Thread(target=self._run, daemon=True, name="tte-decode") for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, key: Key, request: Request) -> None:
        """Request something to be decoded; returns at once."""
        self.pending += 1
        self._jobs.put((key, request))

    def take(self) -> tuple[Key, Decoded | MediaError]:
        """Wait for the next answer, and return it with the key of its request.

        Raises:
            TTEError: The processes cannot be started.
        """
        with self._changed:
            # With a timeout, since a wait without one cannot be interrupted on every system.
            while not self._done and self._broken is None:
                self._changed.wait(1.0)
            if self._broken is not None:
                raise self._broken
            key, answer = self._done.popleft()
            self._waiting_pixels -= _pixels(answer)
            self._changed.notify_all()
        self.pending -= 1
        return key, answer

    def close(self) -> None:
        """End all processes at once."""
        with self._changed:
            self._closed = True
            for worker in self._alive:
                worker.kill()
            self._changed.notify_all()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _run(self) -> None:
        """Serve one process at a time; Linux ends the process with its thread, so the thread lives as long as the pool."""
        worker: _Worker | None = None
        try:
            while (job := self._jobs.get()) is not None and self._may_go_on():
                key, request = job
                worker = worker or self._start()
                answer: Decoded | MediaError
                try:
                    answer = worker.ask(request, self._time_limit_s)
                except _Lost as lost:
                    message = f"{describe(request.path)} {lost}; give a sound, smaller or shorter file"
                    answer = MediaError(message, lost.reason)
                    self._end(worker)
                    worker = None
                with self._changed:
                    self._done.append((key, answer))
                    self._waiting_pixels += _pixels(answer)
                    self._changed.notify_all()
        except BaseException as error:  # ``take`` raises it
            with self._changed:
                self._broken = error
                self._changed.notify_all()
        finally:
            if worker is not None:
                self._end(worker)

    def _may_go_on(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting_pixels < _MAX_WAITING_PIXELS)
            return not self._closed

    def _start(self) -> _Worker:
        worker = _Worker(self._settings)
        with self._changed:
            self._alive.add(worker)
            if self._closed:  # closed while it started, so ``close`` has not seen it
                worker.kill()
        return worker

    def _end(self, worker: _Worker) -> None:
        with self._changed:
            self._alive.discard(worker)
        worker.close()


def _pixels(answer: Decoded | MediaError) -> int:
    return pixels(answer.item) if isinstance(answer, Decoded) and answer.item is not None else 0
