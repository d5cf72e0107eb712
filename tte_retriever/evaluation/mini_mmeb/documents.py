"""The tasks on visual documents. Every function draws ``count`` queries from its arguments alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.small_world.drawing import page_image
from tte_retriever.small_world.pages import PageDescription
from tte_retriever.small_world.tasks import rngs
from tte_retriever.small_world.volumes import PAGES, VOLUMES, Volume, draw_series

from .pools import Candidate, Pool, description_pool

if TYPE_CHECKING:
    import random

    import numpy as np

    from tte_retriever.small_world import Split


def _volumes(rng: random.Random, split: Split, count: int) -> list[Volume]:
    """At least ``count`` volumes, in whole series."""
    return [volume for _ in range(-(-count // VOLUMES)) for volume in draw_series(rng, split)]


def _pool(
    described: list[tuple[str, PageDescription]], volumes: list[Volume], pixels: np.random.Generator
) -> list[Pool]:
    """All pages of all volumes as candidates; a page answers a query if it shows everything in the text."""
    pages = [page for volume in volumes for page in volume.pages]
    candidates = [Candidate({"image": page_image(page, pixels)}, page.key) for page in pages]
    return [description_pool(described, candidates, pages)]


def page_retrieval(split: Split, seed: int, count: int) -> list[Pool]:
    """A fact of one page, and the title or the running fact of its document → that page.

    All pages of both volumes of the series have the same title and keys, and different values.
    """
    rng, pixels = rngs("mini-mmeb", "page-retrieval", split, seed)
    volumes = _volumes(rng, split, -(-count // PAGES))
    described = []
    for volume, page in [(each, page) for each in volumes for page in each.pages][:count]:
        fact = rng.choice(volume.own_facts(page))
        if rng.random() < 0.5:
            described.append(("title-fact", PageDescription(title=volume.title, facts=(fact,))))
        else:
            described.append(("two-facts", PageDescription(facts=(volume.running, fact))))
    return _pool(described, volumes, pixels)


def document_retrieval(split: Split, seed: int, count: int) -> list[Pool]:
    """The title and the running fact of a document → all its pages; the other volume has the same title."""
    rng, pixels = rngs("mini-mmeb", "document-retrieval", split, seed)
    volumes = _volumes(rng, split, count)
    said = [PageDescription(title=volume.title, facts=(volume.running,)) for volume in volumes[:count]]
    return _pool([("title-running-fact", each) for each in said], volumes, pixels)
