"""What only a server does: refuse, be late, be gone, or be something else. Contract tests run against servers too."""

from __future__ import annotations

import logging
import socket
import uuid
from contextlib import closing

import grpc
import numpy as np
import pytest

from tte_retriever_qdrant import ingest, open_store, search
from tte_retriever_qdrant.errors import StoreError, StoreNotFound, StoreUnauthorized, StoreUnavailable
from tte_retriever_qdrant.records import CollectionSpec, Point
from tte_retriever_qdrant.stores import connection, http, indexing

SPEC = CollectionSpec(dim=4, fingerprint="aaaa", model="some-model")
ONE = Point(str(uuid.UUID(int=1)), np.ones(4, np.float32), {"uri": "a.png"})


@pytest.fixture
def films(server):
    """An open store on the stand-in server."""
    with open_store(f"{server.url}/films") as store:
        store.ensure(SPEC)
        store.upsert([ONE])
        yield store


CALLS = (
    lambda store: store.search(np.ones(4), 1),
    lambda store: store.upsert([ONE]),
    lambda store: store.exists([ONE.id]),
    lambda store: store.count(),
    lambda store: store.delete([ONE.id]),
    lambda store: store.finalize(),
    lambda store: store.begin_generation(SPEC),
    lambda store: store.rollback(),
)


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((401, b"Must provide an API key"), StoreUnauthorized, "Must provide.*QDRANT_API_KEY"),
        ((403, b'{"status":{"error":"forbidden"}}'), StoreUnauthorized, "forbidden"),
        ((404, b'{"status":{"error":"Not found: Collection x"}}'), StoreNotFound, "open the store again"),
        ((400, b'{"status":{"error":"Wrong input: Vector dimension error"}}'), StoreError, "Vector dimension error"),
        ((429, b"slow down"), StoreUnavailable, "try again"),
        ((500, b"oops"), StoreUnavailable, "500: oops"),
        ((503, b""), StoreUnavailable, "503"),
        ((200, b"<html>It works!</html>"), StoreError, "not from a Qdrant server"),
    ],
)
def test_answers_that_are_errors(server, films, answer, kind, said):
    server.answer_all = answer
    for call in CALLS:
        with pytest.raises(kind, match=said) as caught:
            call(films)
        assert "collection 'films' on http://127.0.0.1" in str(caught.value)
        assert isinstance(caught.value, StoreUnavailable) == (kind is StoreUnavailable)


def test_opening_says_what_is_wrong_at_once(server):
    server.answer_all = (401, b"Must provide an API key")
    with pytest.raises(StoreUnauthorized):
        open_store(f"{server.url}/films")


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(StoreUnavailable, match="check that the server runs") as caught:
        open_store(f"http://127.0.0.1:{port}/films")
    assert caught.value.exit_code == 1


def test_a_server_that_never_answers(monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT_S", 1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(StoreUnavailable, match="no answer within 1 s"),
    ):
        open_store(f"http://127.0.0.1:{silent.getsockname()[1]}/films")


def test_the_server_goes_away_and_comes_back(server, films):
    answer = server.answer_all
    server.answer_all = (502, b"bad gateway")
    with pytest.raises(StoreUnavailable):
        films.upsert([ONE])
    server.answer_all = answer
    films.upsert([ONE])
    assert films.count() == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UNAUTHENTICATED", StoreUnauthorized),
        ("PERMISSION_DENIED", StoreUnauthorized),
        ("UNAVAILABLE", StoreUnavailable),
        ("DEADLINE_EXCEEDED", StoreUnavailable),
        ("RESOURCE_EXHAUSTED", StoreUnavailable),
        ("NOT_FOUND", StoreNotFound),
        ("INVALID_ARGUMENT", StoreError),
    ],
)
def test_errors_of_grpc(server, code, kind):
    """A gRPC server that fails every call with one code, beside the REST interface that the store was opened by."""
    from concurrent.futures import ThreadPoolExecutor

    class Fails(grpc.GenericRpcHandler):
        def service(self, _details):
            return grpc.unary_unary_rpc_method_handler(
                lambda _request, context: context.abort(grpc.StatusCode[code], "it is so")
            )

    with open_store(f"{server.url}/films") as rest:
        rest.ensure(SPEC)
    failing = grpc.server(ThreadPoolExecutor(1), handlers=[Fails()])
    port = failing.add_insecure_port("127.0.0.1:0")
    failing.start()
    try:
        with pytest.raises(kind, match="it is so"), open_store(f"{server.url}/films?grpc={port}") as store:
            store.search(np.ones(4), 1)
    finally:
        failing.stop(0)


# the key


def test_the_key_is_sent_and_never_told(server, monkeypatch, caplog):
    monkeypatch.setenv("QDRANT_API_KEY", " sesame ")
    with open_store(f"{server.url}/films"):
        pass
    assert {headers["api-key"] for _, _, headers in server.requests} == {"sesame"}
    assert not caplog.records  # loopback is no network
    server.answer_all = (401, b"wrong key")
    with pytest.raises(StoreUnauthorized) as caught:
        open_store(f"{server.url}/films")
    assert "sesame" not in str(caught.value)


def test_without_a_key_none_is_sent(server):
    with open_store(f"{server.url}/films"):
        pass
    assert not any("api-key" in headers for _, _, headers in server.requests)


@pytest.mark.parametrize(
    ("address", "warned"),
    [("http://qdrant.example", True), ("http://10.0.0.1", True), ("https://qdrant.example", False)],
)
def test_a_key_over_plain_http_is_warned_of(address, warned, monkeypatch, caplog):
    def refused(self):
        raise http.StoreUnavailable("not reached in this test")

    monkeypatch.setenv("QDRANT_API_KEY", "sesame")
    monkeypatch.setattr(connection.Connection, "aliases", refused)
    with caplog.at_level(logging.WARNING), pytest.raises(StoreUnavailable):
        open_store(f"{address}/films")
    assert [("https://" in record.message, "sesame" in record.message) for record in caplog.records] == (
        [(True, False)] if warned else []
    )


# what is made


def test_payload_indexes_come_before_points(server, films):
    written = [(method, path.rpartition("/")[2]) for method, path, _ in server.requests]
    assert written.count(("PUT", "index")) == 6
    assert max(i for i, what in enumerate(written) if what == ("PUT", "index")) < written.index(("PUT", "points"))


def test_large_collections_are_quantized_once_they_are_large(server, films, monkeypatch):
    films.finalize()
    assert "PATCH" not in {method for method, _, _ in server.requests}
    monkeypatch.setattr(indexing, "QUANTIZE_FROM", 1)
    films.finalize()
    assert "PATCH" in {method for method, _, _ in server.requests}


def test_many_points_go_in_several_requests(server, films):
    server.requests.clear()
    films.upsert([Point(str(uuid.UUID(int=i)), np.ones(4), {}) for i in range(300)])
    assert len(server.requests) == 3
    assert films.count() == 300


def test_it_is_there_for_the_next_one(server, films):
    with open_store(f"{server.url}/films", create=False) as again:
        assert (again.spec, again.count()) == (SPEC, 1)
        assert again.state_dir == films.state_dir
    with open_store(f"{server.url}/others") as others:
        assert others.spec is None


def test_a_reader_makes_nothing(server):
    with pytest.raises(StoreNotFound, match="tte-retriever index"):
        open_store(f"{server.url}/films", create=False)
    assert {method for method, _, _ in server.requests} == {"GET"}


def test_collections_of_others_are_left_alone(server):
    from qdrant_client import QdrantClient, models

    with closing(QdrantClient(url=server.url, check_compatibility=False)) as other:
        other.create_collection("theirs", vectors_config=models.VectorParams(size=4, distance="Cosine"))
        with pytest.raises(StoreError, match="not made by this program"):
            open_store(f"{server.url}/theirs")
        change = models.CreateAlias(collection_name="theirs", alias_name="alias")
        other.update_collection_aliases([models.CreateAliasOperation(create_alias=change)])
        with pytest.raises(StoreError, match="no such metadata"):
            open_store(f"{server.url}/alias")
        assert other.collection_exists("theirs")


def test_a_server_that_keeps_no_metadata_is_refused(server, monkeypatch):
    """Servers before 1.16 ignore it without a word."""
    from qdrant_client.local.qdrant_local import QdrantLocal

    create = QdrantLocal.create_collection
    monkeypatch.setattr(QdrantLocal, "create_collection", lambda self, *a, metadata, **kw: create(self, *a, **kw))
    with open_store(f"{server.url}/films") as store:
        with pytest.raises(StoreError, match=r"1\.16 or newer"):
            store.ensure(SPEC)
        assert store.spec is None
    assert ("DELETE", "/collections") in {(m, p.rpartition("/")[0]) for m, p, _ in server.requests}


def test_a_folder_into_a_server(server, small_folder, encoder):
    with open_store(f"{server.url}/films") as store:
        assert ingest(small_folder, store, encoder).points == 9
    (small_folder / "doc.pdf").unlink()
    encoder.encoded = []
    with open_store(f"{server.url}/films") as store:
        report = ingest(small_folder, store, encoder)
        assert (report.unchanged, report.removed, encoder.encoded) == (4, 1, [])
        assert store.count() == 6
        assert search(store, encoder, text="zebra", top_k=1)[0].uri == "notes.md"
