"""The errors that users see. Each message says what was given, what is allowed and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Collection

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
"""Why media was refused, as stable words that ledgers and reports store."""

MEDIA_REASONS: tuple[str, ...] = get_args(MediaReason)


class TTEError(Exception):
    """Base class of all errors that this project raises on purpose.

    ``exit_code`` is the exit status of the command line: 2 for bad usage or input, 1 for a run that failed.

    Example:
        >>> from tte_retriever import TTEEncoder, TTEError
        >>> try:
        ...     TTEEncoder("tte-flash-tiny", device="cpu").encode("a red circle", think_budget=99)
        ... except TTEError as error:
        ...     print(error)
        think_budget is 99, but this model has 8 think tokens or steps; give an int from 0 to 8.
    """

    exit_code = 1


class InputError(TTEError, ValueError):
    """An argument or item that cannot be used."""

    exit_code = 2


class MediaError(InputError):
    """A file, byte string or array that is not usable media.

    Args:
        message: What was given, what is allowed, what to do.
        reason: One of the words of :data:`MediaReason`.

    Example:
        >>> from pathlib import Path
        >>> from tte_retriever import MediaError, TTEEncoder
        >>> try:
        ...     TTEEncoder("tte-flash-tiny", device="cpu").encode({"image": Path("missing.png")})
        ... except MediaError as error:
        ...     print(error.reason)
        missing
    """

    def __init__(self, message: str, reason: MediaReason) -> None:
        super().__init__(message)
        self.reason: MediaReason = reason

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, MediaReason]]:
        """Let the error be pickled by a worker process."""
        return type(self), (str(self), self.reason)


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a value that is not one of the allowed words.

    Raises:
        InputError: It is another one.

    Example:
        >>> check_choice("init", "mean", ("mean", "keep"))
    """
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; it can be {' or '.join(allowed)}.")


class CheckpointError(TTEError):
    """A model folder that is incomplete, inconsistent or not supported."""

    exit_code = 2
