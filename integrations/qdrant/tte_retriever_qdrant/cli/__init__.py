"""The sub-commands that this distribution adds to ``tte-retriever``, one per file."""

from __future__ import annotations
