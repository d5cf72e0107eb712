from __future__ import annotations

import pytest

from tte_retriever.sources.chunking import ChunkingConfig, windows


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.4, [(0, 0.4)]),
        (6, [(0, 6)]),
        (6.9, [(0, 6.9)]),
        (7, [(0, 6), (6, 7)]),
        (11.99999999, [(0, 6), (6, 12)]),
        (13.5, [(0, 6), (6, 12), (12, 13.5)]),
    ],
)
def test_windows_cover_everything_once(duration, expected):
    assert windows(duration, ChunkingConfig(6.0)) == expected


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (1, [(0, 1)]),
        (6, [(0, 6)]),
        (6.9, [(0, 6.9)]),
        (7.5, [(0, 6), (4, 7.5)]),
        (14, [(0, 6), (4, 10), (8, 14)]),
    ],
)
def test_windows_that_overlap(duration, expected):
    assert windows(duration, ChunkingConfig(6.0, 2.0)) == expected
