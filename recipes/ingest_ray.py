"""Index a folder on a Ray cluster, with the model and the limits that you choose, and write the result to Parquet.

    python recipes/ingest_ray.py photos --store http://qdrant:6333/photos --address auto --parquet photos.parquet

Without --address, it starts a cluster of this machine alone. Run it again to go on after an interruption. What needs no
change here is done as well by ``tte-retriever index --engine ray`` and ``tte-retriever export``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever import MediaLimits, TTEEncoder
from tte_retriever_qdrant import open_store
from tte_retriever_qdrant.distributed import ingest_on_ray
from tte_retriever_qdrant.exporting import export_parquet
from tte_retriever_qdrant.stores.opening import is_for_many_writers

if TYPE_CHECKING:
    from tte_retriever_qdrant.ingestion import Event

MODEL = "tte-flash-tiny"


def load_encoder() -> TTEEncoder:
    """Load the model; this runs in the workers, which have a GPU each if the cluster has any."""
    return TTEEncoder(MODEL)


def show(event: Event) -> None:
    """Print what is dealt with."""
    print(f"{event.done}/{event.total} {event.kind} {event.uri} {event.message}".rstrip(), flush=True)


def main() -> None:
    """Index, then export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="under the same path on every machine")
    parser.add_argument("--store", required=True, help="http(s)://host:6333/collection, or edge:///dir")
    parser.add_argument("--address", help="host:6379 of the cluster's head, or auto")
    parser.add_argument("--workers", type=int, help="processes that decode")
    parser.add_argument("--models", type=int, help="copies of the model")
    parser.add_argument("--parquet", type=Path)
    arguments = parser.parse_args()
    with open_store(arguments.store) as store:
        report = ingest_on_ray(
            arguments.source,
            store,
            load_encoder,
            # Every worker writes to a server; to a directory, only the process that has it open.
            uri=arguments.store if is_for_many_writers(arguments.store) else None,
            address=arguments.address,
            model_name=MODEL,
            limits=MediaLimits(),
            workers=arguments.workers,
            models=arguments.models,
            on_event=show,
        )
        print(f"{report.indexed} files indexed as {report.points} points, {len(report.failed)} failures")
        if arguments.parquet:
            print(f"{export_parquet(store, arguments.parquet)} points in {arguments.parquet}")


if __name__ == "__main__":
    main()
