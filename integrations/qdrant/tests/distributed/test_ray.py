"""Ingestion on a cluster of this machine: the same collection as without one, whatever is killed."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tte_retriever.cli.main import main
from tte_retriever.errors import InputError, TTEError
from tte_retriever_qdrant import ingest, open_store
from tte_retriever_qdrant.errors import ModelMismatch
from tte_retriever_qdrant.ingestion.journal import JOURNAL
from tte_retriever_qdrant.stores import open_generations

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'tte-retriever-qdrant[ray]'")
parquet = pytest.importorskip("pyarrow.parquet")

from tte_retriever_qdrant.distributed import ingest_on_ray  # noqa: E402

pytestmark = pytest.mark.slow

CONFTEST = Path(__file__).parents[1] / "conftest.py"
RECIPE = Path(__file__).parents[4] / "recipes" / "ingest_ray.py"
SERVER = CONFTEST.parent / "stores" / "conftest.py"


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster of two cores; its address."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 * 1024**2,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def load_standin(**options):
    """Something that Ray can pickle and that makes a stand-in for a model in a worker."""
    path = str(CONFTEST)
    return lambda: runpy.run_path(path)["StandInEncoder"](**options)


@pytest.fixture
def many(small_folder, pdf_bytes):
    """A folder of all kinds of files, good and bad, in several blocks."""
    for i in range(60):
        Image.new("RGB", (20 + i, 30), (4 * i, 10, 100)).save(small_folder / f"picture-{i:02d}.png")
    (small_folder / "twin.png").write_bytes((small_folder / "picture-07.png").read_bytes())
    (small_folder / "cut.png").write_bytes((small_folder / "yellow.png").read_bytes()[:50])
    Image.new("RGB", (13, 13)).save(small_folder / "refused.png")
    Image.new("RGB", (17, 17)).save(small_folder / "nan.png")
    (small_folder / "long.md").write_text("stripes and hooves, " * 500, encoding="utf-8")
    (small_folder / "table.csv").write_text("a,b\n", encoding="utf-8")
    return small_folder


@pytest.fixture
def expected(many, tmp_path, encoder, contents):
    """What one machine makes of that folder: the report, the points, and the quarantine."""
    with open_store(f"edge://{tmp_path}/reference") as store:
        report = ingest(many, store, encoder)
        return report, contents(store), quarantine(store)


def quarantine(store):
    lines = (store.state_dir / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda entry: (entry["uri"], entry["message"]))


def assert_same(one, other):
    """Of points: the same ids and payloads, and vectors that differ by no more than rounding."""
    assert {id: payload for id, (payload, *_) in one.items()} == {id: payload for id, (payload, *_) in other.items()}
    for id, (_, *scores) in one.items():
        assert scores == pytest.approx(other[id][1:], abs=1e-6)


def assert_same_report(one, other):
    counts = ("files", "indexed", "points", "unchanged", "duplicates", "skipped", "removed")
    assert [getattr(one, name) for name in counts] == [getattr(other, name) for name in counts]
    assert set(one.failed) == set(other.failed)


def test_the_same_as_on_one_machine(many, expected, tmp_path, contents):
    report, points, bad = expected
    with open_store(f"edge://{tmp_path}/ray") as store:
        events = []
        found = ingest_on_ray(many, store, load_standin(), on_event=events.append)
        assert_same_report(found, report)
        assert_same(contents(store), points)
        assert quarantine(store) == bad
        assert (events[0].kind, events[-1].done) == ("planned", found.files)
        assert not (store.state_dir / JOURNAL).exists()

        again = ingest_on_ray(many, store, load_standin())
        assert (again.indexed, again.unchanged) == (0, report.indexed)

        (many / "yellow.png").unlink()
        Image.new("RGB", (50, 50), (1, 2, 3)).save(many / "picture-00.png")
        one_more = ingest_on_ray(many, store, load_standin(), window_s=4)
        assert (one_more.indexed, one_more.removed) == (2, 1)  # the picture and the clip
        found = contents(store)
    with open_store(f"edge://{tmp_path}/second reference") as store:
        ingest(many, store, load_standin()(), window_s=4)
        assert_same(found, contents(store))


def test_the_bundled_model_by_the_command_line(small_folder, tmp_path, cluster, capsys, contents):
    found = []
    for options in ([], ["--engine", "ray", "--address", cluster, "--workers", "1", "--models", "1"]):
        uri = f"edge://{tmp_path}/{len(options)}"
        with pytest.raises(SystemExit) as caught:
            main(["index", str(small_folder), "--store", uri, "--json", *options])
        assert not caught.value.code
        *_, report = map(json.loads, capsys.readouterr().out.splitlines())
        with open_store(uri) as store:
            found.append((report, contents(store), store.spec))
    assert found[0][0] == found[1][0]
    assert_same(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_what_cannot_work_is_refused(many, tmp_path, encoder, cluster):
    uri = f"edge://{tmp_path}/ray"
    with open_store(uri) as store:
        with pytest.raises(InputError, match="takes one writer at a time"):
            ingest_on_ray(many, store, load_standin(), uri=uri)
        with pytest.raises(InputError, match="2 cores and 0 GPUs"):
            ingest_on_ray(many, store, load_standin(), workers=2, models=1)
        with pytest.raises(InputError, match="does not exist"):
            ingest_on_ray(tmp_path / "none", store, load_standin())
        assert store.spec is None
        ingest(many, store, encoder)
        with pytest.raises(ModelMismatch, match="standin-2"):
            ingest_on_ray(many, store, load_standin(fingerprint="standin-2"))


def test_workers_write_to_a_server(many, expected, tmp_path, contents, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    server = runpy.run_path(str(SERVER))["StandInServer"]()
    uri = f"{server.url}/films"
    with open_store(uri) as store:
        found = ingest_on_ray(many, store, load_standin(), uri=uri, near_duplicate=1.0)
        assert_same_report(found, expected[0])
        assert_same(contents(store), expected[1])
    server.close()


@pytest.fixture(params=["edge", "server"])
def existing(request, small_folder, tmp_path, monkeypatch):
    """The URI of a store of another model."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    server = runpy.run_path(str(SERVER))["StandInServer"]()
    uri = f"{server.url}/films" if request.param == "server" else f"edge://{tmp_path}/films"
    with open_store(uri) as store:
        ingest(small_folder, store, load_standin()(), model_name="standin")
    yield uri
    server.close()


def test_a_next_generation_with_a_prefix(existing, small_folder, tmp_path, cluster, capsys, contents):
    """Beside what is searched, by the command line."""

    def index(uri, *options):
        with pytest.raises(SystemExit) as caught:
            main(["index", str(small_folder), "--store", uri, "--json", *options])
        return caught.value.code or 0, capsys.readouterr()

    on_ray = ("--engine", "ray", "--address", cluster, "--workers", "1", "--models", "1")
    (small_folder / "cut.png").write_bytes(b"x")
    reembed = (existing, *on_ray, "--reembed", "--prefix", "16")
    assert index(*reembed, "--max-failures", "0")[0] == 1
    with open_generations(existing) as generations:
        assert [(each.role, each.spec.prefix) for each in generations.listed()] == [("current", 0), ("next", 16)]
    with open_store(existing) as store:
        assert (store.spec.model, store.count()) == ("standin", 9)
    code, (out, _) = index(*reembed)
    assert (code, json.loads(out.splitlines()[-1])["unchanged"]) == (0, 5)

    reference = f"edge://{tmp_path}/reference"
    assert index(reference, "--prefix", "16")[0] == 0
    with open_store(existing) as store, open_store(reference) as other:
        assert store.spec == other.spec
        assert_same(contents(store), contents(other))
    (small_folder / "notes.md").write_text("giraffe")
    code, (out, _) = index(existing, *on_ray)  # without, it is that of the store
    assert (code, json.loads(out.splitlines()[-1])["indexed"]) == (0, 1)


@pytest.fixture
def small_blocks(monkeypatch):
    """Results are handed on one by one, so that a worker that dies has handed on some of them."""
    monkeypatch.setattr(ray.data.DataContext.get_current(), "target_max_block_size", 1_000)


def processes_of(stage):
    """The worker processes of a stage, on the cluster that this process has started."""
    found = [(child, child.as_dict(["cmdline"])["cmdline"]) for child in psutil.Process().children(recursive=True)]
    return [child for child, words in found if words and f"({stage})" in words[0]]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("stage", ["Decode", "Embed"])
def test_a_worker_that_is_killed_costs_nothing(stage, many, expected, tmp_path, contents):
    dealt_with = []
    at_kill = []

    def kill_at_work():
        while not at_kill:
            time.sleep(0.05)
            with suppress(psutil.NoSuchProcess):  # one of an earlier run that is just ending
                for worker in processes_of(stage):
                    if dealt_with if stage == "Embed" else worker.children():  # a decoder's child is what decodes
                        time.sleep(0.3)
                        worker.kill()
                        at_kill.append(len(dealt_with))
                        break

    killer = threading.Thread(target=kill_at_work, daemon=True)
    killer.start()
    with open_store(f"edge://{tmp_path}/ray") as store:
        found = ingest_on_ray(
            many,
            store,
            load_standin(delay_s=0.1),
            on_event=lambda event: dealt_with.append(event) if event.done else None,
        )
        killer.join()
        assert at_kill[0] < len(dealt_with)
        assert_same_report(found, expected[0])
        assert_same(contents(store), expected[1])


def load_mortal():
    """The stand-in, whose process dies of pictures of 19 x 19 pixels."""
    path = str(CONFTEST)

    def load():
        class Mortal(runpy.run_path(path)["StandInEncoder"]):
            def encode_document(self, inputs, **settings):
                if any("image" in item and item["image"].size == (19, 19) for item in inputs):
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().encode_document(inputs, **settings)

        return Mortal()

    return load


def test_a_file_that_kills_the_model_is_given_up_alone(many, expected, tmp_path, contents):
    for name in ("deadly.png", "zz-deadly.png"):
        Image.new("RGB", (19, 19), (len(name), 0, 0)).save(many / name)
    with open_store(f"edge://{tmp_path}/ray") as store:
        found = ingest_on_ray(many, store, load_mortal())
        given_up = {failure.uri: failure for failure in found.failed if "deadly" in failure.uri}
        assert set(found.failed) - set(given_up.values()) == set(expected[0].failed)
        assert sorted(given_up) == ["deadly.png", "zz-deadly.png"]
        assert "died each of the 2 times that it was given 'deadly.png' alone" in given_up["deadly.png"].message
        assert_same(contents(store), expected[1])
        again = ingest_on_ray(many, store, load_standin())
        assert (again.indexed, again.unchanged) == (2, expected[0].indexed)


def test_what_kills_too_many_processes_ends_the_run(many, tmp_path):
    for i in range(4):
        Image.new("RGB", (19, 19), (i, 0, 0)).save(many / f"zz-deadly-{i}.png")
    with open_store(f"edge://{tmp_path}/ray") as store:
        with pytest.raises(TTEError, match=r"died each of 8 times at .* without --engine ray"):
            ingest_on_ray(many, store, load_mortal())
        written = store.count()
        assert written > 0
        assert ingest_on_ray(many, store, load_standin()).unchanged > 0
        assert store.count() > written


RUN = """
    import runpy, sys
    from pathlib import Path
    from tte_retriever_qdrant import open_store
    from tte_retriever_qdrant.distributed import ingest_on_ray
    source, store, conftest, address = sys.argv[1:]
    load = lambda: runpy.run_path(conftest)["StandInEncoder"](delay_s=0.8)
    with open_store(store) as opened:
        tell = lambda event: print(event.kind, flush=True)
        ingest_on_ray(Path(source), opened, load, address=address, batch_size=4, on_event=tell)
"""


def states_noted(store):
    """What the manifest on the disk says has become of files; it is written every two seconds, not with every file."""
    parts = store.rglob(f"{JOURNAL}/part-*.parquet")
    return {state for part in parts for state in parquet.read_table(part)["state"].to_pylist()}


def test_a_run_that_is_killed_is_resumed(many, expected, tmp_path, contents, cluster):
    uri = f"edge://{tmp_path}/ray"
    arguments = [str(many), uri, str(CONFTEST), cluster]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(RUN), *arguments], stdout=subprocess.PIPE) as run:
        for line in run.stdout:
            if line == b"written\n" and "WRITTEN" in states_noted(tmp_path / "ray"):
                break
        run.kill()
    assert run.returncode == -signal.SIGKILL
    with open_store(uri) as store:
        partial = contents(store)
        assert 0 < len(partial) < len(expected[1])
        assert list((store.state_dir / JOURNAL).glob("*.parquet"))
        found = ingest_on_ray(many, store, load_standin())
        assert found.unchanged > 0
        assert found.indexed + found.unchanged == expected[0].indexed
        assert_same(contents(store), expected[1])
        assert not (store.state_dir / JOURNAL).exists()


def test_the_recipe(small_folder, tmp_path, cluster):
    """In a process of its own, whose ``load_encoder`` no worker can import."""
    uri, out = f"edge://{tmp_path}/store", tmp_path / "points.parquet"
    words = [RECIPE, small_folder, "--store", uri, "--address", cluster, "--parquet", out]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"5 files indexed as 9 points, 0 failures\n9 points in {out}\n")
    assert "5/5 written" in done.stdout


def test_errors_of_workers_are_ours(many, tmp_path):
    mark = tmp_path / "loaded once"

    def unloadable():
        raise InputError("there is no such model")

    def another_each_time():
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return load_standin(fingerprint="standin-2")()
        return load_standin()()

    with open_store(f"edge://{tmp_path}/ray") as store:
        with pytest.raises(InputError, match="there is no such model"):
            ingest_on_ray(many, store, unloadable)
        with pytest.raises(
            TTEError, match=r"fingerprint standin-2, and another one with standin-1; .* on all of them$"
        ):
            ingest_on_ray(many, store, another_each_time)
