"""``tte-retriever search``: ask a store."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tte_retriever.cli.options import with_model_options
from tte_retriever.errors import InputError, TTEError
from tte_retriever.options import ModelOptions  # noqa: TC001  (typer reads the annotations)
from tte_retriever_qdrant.cli.model import load_stored_model
from tte_retriever_qdrant.records import PAYLOAD_FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tte_retriever_qdrant.searching import SearchHit


Store = Annotated[
    str, typer.Option(help="Where to look: edge://dir or http(s)://host:6333/collection.", metavar="URI")
]
Query = Annotated[str | None, typer.Argument(help="What to look for.", show_default=False)]
ImageFile = Annotated[Path | None, typer.Option(help="An image file to look for.")]
VideoFile = Annotated[Path | None, typer.Option(help="A video file to look for.")]
Instruction = Annotated[
    str | None,
    typer.Option(help="What is searched for, as the model's system message. Default: the model's own prompt."),
]
TopK = Annotated[int, typer.Option("--top-k", help="How many hits.")]
Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", help=f"key=value, also several times; keys: {', '.join(PAYLOAD_FIELDS)}."),
]
PerAsset = Annotated[bool, typer.Option("--per-asset", help="Only the best page or clip of every file.")]
Moments = Annotated[
    bool, typer.Option("--moments", help="Moments of a video as they are stored, not merged into clips.")
]
Exact = Annotated[bool, typer.Option("--exact", help="Compare with every vector, without the index.")]
ClipFile = Annotated[
    Path | None, typer.Option(help="Write a hit in a video as this .mp4, cut exactly, without sound.")
]
OpenHit = Annotated[
    bool, typer.Option("--open", help="Open a hit with the system's viewer, at its page or time if that can.")
]
ChosenHit = Annotated[int, typer.Option("--hit", min=1, help="Which hit --clip and --open take, by its rank.")]
Root = Annotated[
    Path | None,
    typer.Option(help="Where the folder that was indexed is now, for --clip and --open; default: where it was."),
]
JsonLines = Annotated[bool, typer.Option("--json", help="One JSON object per hit.")]


@with_model_options(
    help={
        "model": "Bundled name, folder or hub id. Default: the model that the store was made with.",
        "think_budget": "Think tokens or latent steps of the query, from 0 to K. Default: those of the store.",
        "max_pixels": "The most pixels of an image of the query that the model sees. Default: those of the store.",
    }
)
def search(
    store: Store,
    text: Query = None,
    image: ImageFile = None,
    video: VideoFile = None,
    instruction: Instruction = None,
    top_k: TopK = 10,
    filters: Filters = None,
    per_asset: PerAsset = False,
    moments: Moments = False,
    exact: Exact = False,
    clip: ClipFile = None,
    open_hit: OpenHit = False,
    chosen: ChosenHit = 1,
    root: Root = None,
    json_lines: JsonLines = False,
    *,
    options: ModelOptions,
) -> None:
    """Find images, pages, clips of videos and texts by text, image, video or a mixture."""
    from tte_retriever_qdrant.clipping import check_target
    from tte_retriever_qdrant.filters import parse_filters
    from tte_retriever_qdrant.locating import locate
    from tte_retriever_qdrant.searching import search as run
    from tte_retriever_qdrant.stores import open_store

    if not ((text and text.strip()) or image or video):
        raise InputError("the query has neither text nor media; give a text, --image FILE or --video FILE")
    query: dict[str, Any] = {
        "instruction": instruction,
        "text": text,
        "image": image,
        "video": video,
        "filter": parse_filters(filters or []),
    }
    if clip is not None:
        check_target(clip)  # before a model is loaded
    with open_store(store, create=False) as opened:
        encoder = load_stored_model(opened.spec, options, store)
        hits = run(opened, encoder, **query, top_k=top_k, per_asset=per_asset, clips=not moments, exact=exact)
        if json_lines:
            for hit in hits:
                typer.echo(json.dumps(hit.as_dict(), ensure_ascii=False))
        else:
            _print_table(hits)
        if clip is not None or open_hit:
            hit = _chosen(hits, chosen)
            path = locate(opened, hit, root)
            if clip is not None:
                _write(hit, path, clip)
            if open_hit:
                _open(hit, path)


def _print_table(hits: Sequence[SearchHit]) -> None:
    console = Console()
    if not hits:
        console.print("nothing found")
        return
    table = Table("rank", "score", "kind", "where")
    for hit in hits:
        table.add_row(str(hit.rank), f"{hit.score:.3f}", hit.modality, Text(place_of(hit)))
    console.print(table)


def _chosen(hits: Sequence[SearchHit], rank: int) -> SearchHit:
    if rank > len(hits):
        raise InputError(
            f"hit {rank} was asked for, and {len(hits)} were found; give one of them, or a larger --top-k"
        )
    return hits[rank - 1]


def _write(hit: SearchHit, path: Path, clip: Path) -> None:
    from tte_retriever_qdrant.clipping import write_clip

    if hit.start_s is None or hit.end_s is None:
        raise InputError(
            f"hit {hit.rank} ({place_of(hit)}) is of the kind {hit.modality}, and only a video has clips; give the --hit of "
            "a video, or --filter modality=video"
        )
    write_clip(path, clip, hit.start_s, hit.end_s)
    typer.echo(f"wrote {clip}: {place_of(hit)}", err=True)


def _open(hit: SearchHit, path: Path) -> None:
    place = ""  # the part of a URL that browsers and some viewers know for it
    if hit.page is not None:
        place = f"#page={hit.page}"
    elif hit.start_s is not None and hit.end_s is not None:
        place = f"#t={hit.start_s:g},{hit.end_s:g}"
    if not webbrowser.open(path.as_uri() + place):  # typer.launch takes what follows # for a part of the file's name
        raise TTEError(f"the system has no viewer for {str(path)!r}; open it by hand, at {place_of(hit)}")
    typer.echo(f"opened {place_of(hit)}", err=True)


def place_of(hit: SearchHit) -> str:
    """The place of a hit, for people: its file and the page or the time in it."""
    if hit.page is not None:
        return f"{hit.uri}  page {hit.page}"
    if hit.start_s is not None and hit.end_s is not None:
        return f"{hit.uri}  {_clock(hit.start_s)} to {_clock(hit.end_s)}"
    return hit.uri


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}"
