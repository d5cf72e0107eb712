from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant import ingest, search
from tte_retriever_qdrant.ingestion.ledger import LEDGER
from tte_retriever_qdrant.locating import locate

pytestmark = pytest.mark.usefixtures("decode_here")


@pytest.fixture
def hit(small_folder, store, encoder):
    ingest(small_folder, store, encoder)
    return search(store, encoder, text="zebra", top_k=1)[0]


def test_a_file_is_where_it_was(small_folder, store, hit):
    assert locate(store, hit) == small_folder / "notes.md"


def test_a_folder_that_was_moved(small_folder, store, hit, tmp_path):
    moved = small_folder.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"notes\.md.*media.*--root"):
        locate(store, hit)
    assert locate(store, hit, moved) == moved / "notes.md"


def test_a_store_that_was_filled_elsewhere(small_folder, store, hit):
    (store.state_dir / LEDGER).unlink()
    with pytest.raises(InputError, match="on this machine"):
        locate(store, hit)
    assert not (store.state_dir / LEDGER).exists()
    assert locate(store, hit, small_folder) == small_folder / "notes.md"


def test_other_content_is_not_taken_for_the_hit(small_folder, store, hit):
    (small_folder / "notes.md").write_text("giraffe")
    with pytest.raises(InputError, match="changed since"):
        locate(store, hit)


def test_the_one_of_two_sources_that_is_still_there(small_folder, store, encoder, hit, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(small_folder, other)
    ingest(other, store, encoder)
    shutil.rmtree(small_folder)
    assert locate(store, hit) == other / "notes.md"


@pytest.mark.parametrize("uri", ["../secret.txt", "sub/../../secret.txt", "link.txt", "{tmp}/secret.txt"])
def test_nothing_outside_the_folder_is_taken(small_folder, store, hit, tmp_path, uri):
    """A store may come from others."""
    secret = tmp_path / "secret.txt"
    shutil.copy(small_folder / "notes.md", secret)
    (small_folder / "link.txt").symlink_to(secret)
    with pytest.raises(InputError, match="is not in"):
        locate(store, replace(hit, uri=uri.format(tmp=tmp_path)), small_folder)


@pytest.mark.parametrize(
    ("made", "reason"), [("link", "cannot be read"), ("folder", "is not in"), ("nothing", "is not in")]
)
def test_what_is_no_file_is_said_to_be_none(small_folder, store, hit, made, reason):
    path = small_folder / "notes.md"
    path.unlink()
    if made == "link":
        path.symlink_to(path)
    if made == "folder":
        path.mkdir()
    with pytest.raises(InputError, match=rf"notes.md.*{reason}.*--root"):
        locate(store, hit)


def test_what_cannot_be_a_name(small_folder, store, hit):
    with pytest.raises(InputError, match="cannot be read"):
        locate(store, replace(hit, uri="a\0b"), small_folder)
