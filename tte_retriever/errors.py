"""The errors a user can meet; each message says what was given, what is allowed and what to do."""

from __future__ import annotations

from typing import Literal, get_args

MediaReason = Literal[
    "missing",  # no such file
    "not-a-file",  # a directory, device, socket or pipe
    "unreadable",  # permission denied or a failing disk
    "empty",  # zero bytes, zero frames, zero pages
    "too-large",  # beyond MediaLimits
    "unsupported",  # a format that is not opened
    "corrupt",  # of a supported format, but broken
    "not-allowed",  # a URL, or a path outside the root
]
"""Why a piece of media was refused; stable words that ledgers and reports may store."""

MEDIA_REASONS: tuple[str, ...] = get_args(MediaReason)


class TTEError(Exception):
    """Base of every error this project raises on purpose.

    ``exit_code`` is what the command line ends with: 2 for bad usage or input, 1 for a run that failed.
    """

    exit_code = 1


class InputError(TTEError, ValueError):
    """An argument or item that cannot be used as it was given."""

    exit_code = 2


class MediaError(InputError):
    """A file, byte string or array that is not usable media.

    Args:
        message: What was given, what is allowed, what to do.
        reason: One stable word of :data:`MediaReason`.
    """

    def __init__(self, message: str, reason: MediaReason) -> None:
        super().__init__(message)
        self.reason: MediaReason = reason

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, MediaReason]]:
        """Survive the way back from a worker process."""
        return type(self), (str(self), self.reason)


class CheckpointError(TTEError):
    """A model folder that is incomplete, inconsistent or not one of ours."""

    exit_code = 2
