"""Every engine in turn, and a stand-in for a Qdrant server."""

from __future__ import annotations

import json
import os
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from qdrant_client import QdrantClient, models

from tte_retriever_qdrant import open_store


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

    def post_points_count(self, name, body):
        return self.engine.count(name, count_filter=models.CountRequest(**body).filter)

    def post_points_delete(self, name, body):
        selector = models.FilterSelector if "filter" in body else models.PointIdsList
        return self.engine.delete(name, selector(**body))

    def post_points_query_batch(self, name, body):
        asked = models.QueryRequestBatch(**body).searches
        assert all(request.params is not None for request in asked)
        for request in asked:
            request.params = None  # which the engine in memory warns of
        return self.engine.query_batch_points(name, asked)


class StandInServer:
    """A server on this machine; ``answer_all`` replaces its answers by one status and body."""

    def __init__(self) -> None:
        answers, lock, outer = _Answers(), threading.Lock(), self
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


@pytest.fixture(autouse=True)
def _no_real_key_or_data(monkeypatch, tmp_path):
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def server():
    stand_in = StandInServer()
    yield stand_in
    stand_in.close()


@pytest.fixture(params=["edge", "memory", "http", "server", "server-grpc"])
def uri(request, tmp_path, monkeypatch):
    """A store that does not exist yet, in every engine; a real server is that of QDRANT_URL, on this machine."""
    if request.param == "edge":
        yield f"edge://{tmp_path / 'a store'}"
    elif request.param == "memory":
        yield "memory://"
    elif request.param == "http":
        yield f"{request.getfixturevalue('server').url}/films"
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
