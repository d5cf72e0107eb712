"""Every engine in turn, and a stand-in for a Qdrant server."""

from __future__ import annotations

import json
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc as grpcio
import pytest
from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import GrpcToRest as ToRest
from qdrant_client.conversions.conversion import RestToGrpc as ToGrpc

from tte_retriever_qdrant import open_store


def forget_parameters(request):
    """Drop what the engine in memory, which has no index, warns of."""
    request.params = None
    for stage in [request.prefetch] if isinstance(request.prefetch, models.Prefetch) else request.prefetch or []:
        stage.params = None


class _Answers:
    """Qdrant's REST interface, as far as stores use it, over the client's own search in memory.

    Requests and answers are parsed and made by the models that Qdrant's own interface description generates.
    """

    def __init__(self) -> None:
        self.engine = QdrantClient(":memory:")

    def __call__(self, method, path, body):
        if (method, path) == ("GET", "/aliases"):
            return self.engine.get_aliases()
        if (method, path) == ("POST", "/collections/aliases"):
            return self.engine.update_collection_aliases(models.ChangeAliasesOperation(**body).actions)
        _, collections, name, *rest = path.split("/")
        assert collections == "collections"
        return getattr(self, f"{method.lower()}_{'_'.join(rest) or 'collection'}")(name, body)

    def get_exists(self, name, _body):
        return {"exists": self.engine.collection_exists(name)}

    def get_collection(self, name, _body):
        return self.engine.get_collection(name)

    def put_collection(self, name, body):
        asked = models.CreateCollection(**body)
        return self.engine.create_collection(name, vectors_config=asked.vectors, metadata=asked.metadata)

    def patch_collection(self, name, body):
        assert models.UpdateCollection(**body).quantization_config
        return True

    def delete_collection(self, name, _body):
        return self.engine.delete_collection(name)

    def put_index(self, _name, body):
        models.CreateFieldIndex(**body)
        return models.UpdateResult(status="completed")

    def put_points(self, name, body):
        return self.engine.upsert(name, models.PointsList(**body).points)

    def post_points(self, name, body):
        asked = models.PointRequest(**body)
        return self.engine.retrieve(name, asked.ids, with_payload=bool(asked.with_payload))

    def post_points_scroll(self, name, body):
        asked = models.ScrollRequest(**body)
        records, page = self.engine.scroll(
            name,
            limit=asked.limit,
            offset=asked.offset,
            with_payload=asked.with_payload,
            with_vectors=asked.with_vector,
        )
        return models.ScrollResult(points=records, next_page_offset=page)

    def post_points_count(self, name, body):
        return self.engine.count(name, count_filter=models.CountRequest(**body).filter)

    def post_points_delete(self, name, body):
        selector = models.FilterSelector if "filter" in body else models.PointIdsList
        return self.engine.delete(name, selector(**body))

    def post_points_query_batch(self, name, body):
        asked = models.QueryRequestBatch(**body).searches
        assert all(request.params is not None for request in asked)
        for request in asked:
            forget_parameters(request)
        return self.engine.query_batch_points(name, asked)


class StandInServer:
    """A server on this machine; ``answer_all`` replaces its answers by one status and body."""

    def __init__(self) -> None:
        self.answers = answers = _Answers()
        lock, outer = threading.Lock(), self
        self.answer_all = None
        self.requests: list[tuple[str, str, dict]] = []

        class Handler(BaseHTTPRequestHandler):
            def _answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0]
                outer.requests.append((self.command, path, dict(self.headers)))
                with lock:
                    status, content = outer.answer_all or self._of_engine(path, json.loads(body or "{}"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _of_engine(self, path, body):
                try:
                    result = answers(self.command, path, body)
                except ValueError as error:
                    status = 404 if "not found" in str(error) else 400
                    return status, json.dumps({"status": {"error": str(error)}}).encode()
                listed = result if isinstance(result, list) else None
                plain = [r.model_dump(mode="json") for r in listed] if listed is not None else result
                plain = plain.model_dump(mode="json") if hasattr(plain, "model_dump") else plain
                return 200, json.dumps({"result": plain, "status": "ok", "time": 0.0}).encode()

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def over_grpc(server):
    """Serve the same collections by gRPC; returns the gRPC server and its port."""
    engine = server.answers.engine

    class Collections(grpc.CollectionsServicer):
        def ListAliases(self, _asked, _context):  # noqa: N802
            found = engine.get_aliases().aliases
            return grpc.ListAliasesResponse(aliases=[ToGrpc.convert_alias_description(alias) for alias in found])

        def UpdateAliases(self, asked, _context):  # noqa: N802
            engine.update_collection_aliases([ToRest.convert_alias_operations(action) for action in asked.actions])
            return grpc.CollectionOperationResponse(result=True)

        def CollectionExists(self, asked, _context):  # noqa: N802
            there = engine.collection_exists(asked.collection_name)
            return grpc.CollectionExistsResponse(result=grpc.CollectionExists(exists=there))

        def Create(self, asked, _context):  # noqa: N802
            vectors = ToRest.convert_vectors_config(asked.vectors_config)
            metadata = ToRest.convert_payload(asked.metadata)
            made = engine.create_collection(asked.collection_name, vectors_config=vectors, metadata=metadata)
            return grpc.CollectionOperationResponse(result=made)

        def Get(self, asked, _context):  # noqa: N802
            info = ToGrpc.convert_collection_info(engine.get_collection(asked.collection_name))
            return grpc.GetCollectionInfoResponse(result=info)

        def Delete(self, asked, _context):  # noqa: N802
            return grpc.CollectionOperationResponse(result=engine.delete_collection(asked.collection_name))

        def Update(self, asked, _context):  # noqa: N802
            assert asked.HasField("quantization_config")
            return grpc.CollectionOperationResponse(result=True)

    done = grpc.PointsOperationResponse(result=grpc.UpdateResult(status=grpc.UpdateStatus.Completed))

    class Points(grpc.PointsServicer):
        def CreateFieldIndex(self, _asked, _context):  # noqa: N802
            return done

        def Upsert(self, asked, _context):  # noqa: N802
            engine.upsert(asked.collection_name, [ToRest.convert_point_struct(point) for point in asked.points])
            return done

        def Delete(self, asked, _context):  # noqa: N802
            engine.delete(asked.collection_name, ToRest.convert_points_selector(asked.points))
            return done

        def Count(self, asked, _context):  # noqa: N802
            wanted = ToRest.convert_filter(asked.filter) if asked.HasField("filter") else None
            count = engine.count(asked.collection_name, count_filter=wanted).count
            return grpc.CountResponse(result=grpc.CountResult(count=count))

        def Get(self, asked, _context):  # noqa: N802
            ids = [ToRest.convert_point_id(each) for each in asked.ids]
            found = engine.retrieve(asked.collection_name, ids)
            return grpc.GetResponse(result=[ToGrpc.convert_retrieved_point(point) for point in found])

        def Scroll(self, asked, _context):  # noqa: N802
            offset = ToRest.convert_point_id(asked.offset) if asked.HasField("offset") else None
            found, page = engine.scroll(asked.collection_name, limit=asked.limit, offset=offset, with_vectors=True)
            return grpc.ScrollResponse(
                result=[ToGrpc.convert_retrieved_point(point) for point in found],
                next_page_offset=None if page is None else ToGrpc.convert_extended_point_id(page),
            )

        def QueryBatch(self, asked, _context):  # noqa: N802
            requests = [ToRest.convert_query_points(request) for request in asked.query_points]
            assert all(request.params.hnsw_ef or request.params.exact for request in requests)
            for request in requests:
                forget_parameters(request)
            answers = engine.query_batch_points(asked.collection_name, requests)
            return grpc.QueryBatchResponse(
                result=[
                    grpc.BatchResult(result=[ToGrpc.convert_scored_point(point) for point in answer.points])
                    for answer in answers
                ]
            )

    serving = grpcio.server(ThreadPoolExecutor(1))
    grpc.add_CollectionsServicer_to_server(Collections(), serving)
    grpc.add_PointsServicer_to_server(Points(), serving)
    port = serving.add_insecure_port("127.0.0.1:0")
    serving.start()
    return serving, port


@pytest.fixture(autouse=True)
def _no_real_key_or_data(monkeypatch, tmp_path):
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def server():
    stand_in = StandInServer()
    yield stand_in
    stand_in.close()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("http", "grpc")]


@pytest.fixture(params=["edge", "memory", *SLOW, "server", "server-grpc"])
def uri(request, tmp_path, monkeypatch):
    """A store that does not exist yet, in every engine; a real server is that of QDRANT_URL, on this machine."""
    if request.param == "edge":
        yield f"edge://{tmp_path / 'a store'}"
    elif request.param == "memory":
        yield "memory://"
    elif request.param == "http":
        yield f"{request.getfixturevalue('server').url}/films"
    elif request.param == "grpc":
        server = request.getfixturevalue("server")
        serving, port = over_grpc(server)
        yield f"{server.url}/films?grpc={port}"
        serving.stop(0)
    else:
        url = os.environ.get("QDRANT_URL")
        if not url:
            pytest.skip("QDRANT_URL names no server, such as http://localhost:6333")
        name = f"tte-test-{uuid.uuid4().hex}"
        yield f"{url.rstrip('/')}/{name}{'?grpc=6334' if request.param == 'server-grpc' else ''}"
        client = QdrantClient(url=url)
        for collection in client.get_collections().collections:
            if collection.name.startswith(name):
                client.delete_collection(collection.name)
        client.close()


@pytest.fixture
def store(uri):
    with open_store(uri) as opened:
        yield opened
