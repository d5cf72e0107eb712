"""The ``tte-retriever`` command."""

from __future__ import annotations
