"""Say which nodes and files were left out, and why: in the log and as an event of LlamaIndex's instrumentation."""

from __future__ import annotations

import logging

import llama_index.core.instrumentation as instrument
from llama_index.core.instrumentation.events.base import BaseEvent

from tte_retriever.errors import MediaError, TTEError

dispatcher = instrument.get_dispatcher(__name__)
logger = logging.getLogger(__name__)


class BadMediaEvent(BaseEvent):
    """Something that has no vector, or no node, because it cannot be used.

    Attributes:
        source: Id of the node, or path of the file or folder, with the part after ``#`` where only that part is bad.
        reason: A word of ``tte_retriever.errors.MediaReason``.
        message: What is wrong, for people.
    """

    source: str
    reason: str
    message: str

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex serializes this class."""
        return "BadMediaEvent"


def report_bad(source: str, error: TTEError) -> None:
    """Log a warning and dispatch a :class:`BadMediaEvent`."""
    reason = error.reason if isinstance(error, MediaError) else "unsupported"
    logger.warning("%s is left out (%s): %s", source, reason, error)
    dispatcher.event(BadMediaEvent(source=source, reason=reason, message=str(error)))
