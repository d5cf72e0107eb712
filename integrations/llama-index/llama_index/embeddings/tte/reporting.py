"""Report the nodes and files that were left out, in the log and as events of LlamaIndex's instrumentation."""

from __future__ import annotations

import logging

import llama_index.core.instrumentation as instrument
from llama_index.core.instrumentation.events.base import BaseEvent

from tte_retriever.errors import MediaError, TTEError

dispatcher = instrument.get_dispatcher(__name__)
logger = logging.getLogger(__name__)


class BadMediaEvent(BaseEvent):
    """A node or a file that cannot be used and was left out.

    Attributes:
        source: Id of the node, or path of the file or folder; ``#`` and a name follow if only one chunk is bad.
        reason: One of ``tte_retriever.errors.MediaReason``.
        message: What is wrong, in a sentence.

    Example:
        >>> from llama_index.embeddings.tte import BadMediaEvent
        >>> event = BadMediaEvent(source="cut.png", reason="corrupt", message="cut.png cannot be decoded")
        >>> f"{event.source} is left out: {event.reason}"
        'cut.png is left out: corrupt'
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
