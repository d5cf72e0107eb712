from __future__ import annotations

import pytest

from tte_retriever.errors import InputError
from tte_retriever_qdrant import open_store
from tte_retriever_qdrant.stores.http import Address, parse_address


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("edge://", "no directory"),
        ("some/dir", "edge://relative/dir"),
        ("/some/dir", "edge:///absolute/dir"),
        ("ftp://x", "no known kind"),
        ("edge:x", "edge://relative/dir"),
        ("memory://x", "memory:// alone"),
        ("https://host:6333", "http(s)"),
        ("", "edge://"),
    ],
)
def test_unknown_uris_say_what_is_allowed(uri, said):
    with pytest.raises(InputError, match=said):
        open_store(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://",
        "http://host:6333/",
        "http://host:port/films",
        "http://host:99999/films",
        "http:///films",
        "http://host/films?x=1",
        "http://host/films?grpc=yes",
        "http://host/films?grpc",
        "http://host/two%20films",
        "http://host/films#here",
        "http://user:secret@host/films",
    ],
)
def test_addresses_of_no_collection(uri):
    with pytest.raises(InputError) as caught:
        open_store(uri)
    assert "QDRANT_API_KEY" in str(caught.value) if "secret" in uri else "host:6333/collection" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://localhost/films", Address("http://localhost:6333", "films", None)),
        ("https://a.b.cloud:443/films-2", Address("https://a.b.cloud:443", "films-2", None)),
        ("http://[::1]:7000/behind/a/proxy/films/", Address("http://[::1]:7000/behind/a/proxy", "films", None)),
        ("http://10.0.0.1/films?grpc=6334", Address("http://10.0.0.1:6333", "films", 6334)),
    ],
)
def test_addresses(uri, address):
    assert parse_address(uri) == address
