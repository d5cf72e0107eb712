"""``tte-retriever index``: files or a folder into a store."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tte_retriever.cli.options import with_model_options
from tte_retriever.errors import InputError, TTEError
from tte_retriever.options import ModelOptions
from tte_retriever_qdrant.cli.model import with_defaults_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Task

    from tte_retriever_qdrant.ingestion import Event, Report
    from tte_retriever_qdrant.records import CollectionSpec, GenerationInfo
    from tte_retriever_qdrant.stores import GenerationalStore

DEFAULT_MODEL = "tte-flash-tiny"
_REMEMBERED = {
    name: f"{ModelOptions.help_of(name).partition(' Default')[0]} Default: that of the store; of a new one, and with --reembed, the model's own."
    for name in ("think_budget", "max_pixels")
}


class Engine(str, Enum):
    """Where the work is done."""

    LOCAL = "local"
    RAY = "ray"


Source = Annotated[Path, typer.Argument(help="A folder, with all its subfolders, or one file.")]
Store = Annotated[str, typer.Option(help="Where to: edge:///dir or edge://relative/dir.", metavar="URI")]
WindowSeconds = Annotated[float, typer.Option("--window-s", help="Seconds of a video per vector.")]
OverlapSeconds = Annotated[float, typer.Option("--overlap-s", help="Seconds that it shares with the next one.")]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes that decode. [default: cores less one, 8 at most; on Ray, all that are left]"),
]
NearDuplicateScore = Annotated[
    float | None, typer.Option(help="Report what is at least this similar to other content, such as 0.98.")
]
Prefix = Annotated[
    int | None,
    typer.Option(min=0, help="Of a Matryoshka model: find candidates by so many leading dimensions. New stores."),
]
Reembed = Annotated[
    bool, typer.Option("--reembed", help="Into a new generation, beside what is searched until all is done.")
]
MaxFailures = Annotated[
    int | None, typer.Option(min=0, help="Exit with 1 if more files and parts of files than this fail.")
]
EngineName = Annotated[Engine, typer.Option(help="On this machine, or on a Ray cluster.")]
RayAddress = Annotated[
    str | None, typer.Option(help="host:6379 of the Ray cluster, or auto. [default: one of this machine alone]")
]
RayModels = Annotated[
    int | None, typer.Option(min=1, help="Copies of the model on Ray. [default: one per GPU, or one]")
]
JsonLines = Annotated[bool, typer.Option("--json", help="One JSON object per event on stdout.")]


@with_model_options(DEFAULT_MODEL, help=_REMEMBERED)
def index(
    source: Source,
    store: Store,
    window_s: WindowSeconds = 6.0,
    overlap_s: OverlapSeconds = 0.0,
    workers: Workers = None,
    near_duplicate: NearDuplicateScore = None,
    prefix: Prefix = None,
    reembed: Reembed = False,
    max_failures: MaxFailures = None,
    engine: EngineName = Engine.LOCAL,
    address: RayAddress = None,
    models: RayModels = None,
    json_lines: JsonLines = False,
    *,
    options: ModelOptions,
) -> None:
    """Index images, PDF pages, video moments and texts; run it again to resume or to bring the store up to date."""
    from tte_retriever.sources.discovery import check_source
    from tte_retriever_qdrant.ingestion.failure_list import QUARANTINE
    from tte_retriever_qdrant.stores import open_generation, updating

    check_source(source)  # before a model is loaded, and before a store is made for nothing
    if engine is Engine.LOCAL and (address or models):
        raise InputError("--address and --models are for a cluster; give --engine ray, too, or leave them out")
    # A folder is remembered so that it is found from any working directory, and on any machine that has it there.
    model = options.model or DEFAULT_MODEL
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    held = _current(store)
    if held is not None and not reembed:
        options = with_defaults_of(held.spec, options)
    if prefix is None:
        prefix = held.spec.prefix if held is not None and not reembed else 0
    with ExitStack() as stack:
        if engine is Engine.RAY:
            spec, ingest = _on_ray(stack, replace(options, model=name), store, address, models, reembed=reembed)
        else:
            spec, ingest = _on_this_machine(options, name)
        spec = replace(spec, prefix=prefix)
        opened = stack.enter_context(open_generation(store, spec) if reembed else updating(store, spec))
        run = partial(ingest, source, opened, model_name=name, prefix=prefix, workers=workers)
        run = partial(run, window_s=window_s, overlap_s=overlap_s, near_duplicate=near_duplicate)
        report = _run_and_print(run, store, json_lines=json_lines)
        quarantine = opened.state_dir / QUARANTINE
        too_many = max_failures is not None and len(report.failed) > max_failures
        if reembed and not too_many:
            _swap_in(opened, held, store)
    if too_many:
        raise TTEError(
            f"{len(report.failed)} files or parts of files failed, and --max-failures allows {max_failures}; what could be "
            f"indexed is{' in the next generation' if reembed else ''}, and {quarantine} says what is wrong with the rest"
        )


def _run_and_print(run: Callable[..., Report], store: str, *, json_lines: bool) -> Report:
    """Ingest, and print events and the report as JSON lines, or a progress bar and tables."""
    if json_lines:
        report = run(on_event=_print_json)
        typer.echo(json.dumps({"event": "report", **asdict(report)}, ensure_ascii=False))
        return report
    with _progress_bar() as progress:
        bar = progress.add_task("indexing", total=None)

        def show(event: Event) -> None:
            progress.update(bar, completed=event.done, total=event.total)

        report = run(on_event=show)
    _print_report(report, store)
    return report


def _current(store: str) -> GenerationInfo | None:
    """The generation that is searched now, whoever has it open."""
    from tte_retriever_qdrant.errors import StoreNotFound
    from tte_retriever_qdrant.stores import open_generations

    try:
        with open_generations(store) as generations:
            return next((each for each in generations.listed() if each.role == "current"), None)
    except StoreNotFound:
        return None


def _swap_in(opened: GenerationalStore, held: GenerationInfo | None, store: str) -> None:
    """Make a re-embedding the current generation, if it has all that this has."""
    from tte_retriever_qdrant.ingestion.completeness import missing_sources

    left = missing_sources(held.state_dir, opened.state_dir) if held is not None else []
    if left:
        typer.echo(
            f"not searched yet: {len(left)} files of other sources, such as {str(left[0])!r}, are in the current "
            f"generation only; re-embed their folders too, or go without: tte-retriever generations commit --store {store}",
            err=True,
        )
        return
    opened.commit()
    typer.echo(f"searched from now on; to undo it: tte-retriever generations rollback --store {store}", err=True)


def _on_this_machine(options: ModelOptions, name: str) -> tuple[CollectionSpec, Callable[..., Report]]:
    """What a collection of the model's vectors holds, and what fills it."""
    from tte_retriever.cli.loading import load_encoder
    from tte_retriever_qdrant.encoder import spec_of
    from tte_retriever_qdrant.ingestion import ingest

    encoder = load_encoder(options)
    return spec_of(encoder, name), partial(ingest, encoder=encoder)


def _on_ray(
    stack: ExitStack, options: ModelOptions, store: str, address: str | None, models: int | None, *, reembed: bool
) -> tuple[CollectionSpec, Callable[..., Report]]:
    """The same on a cluster, to which this process is connected until the end of ``stack``."""
    from tte_retriever.cli.loading import load_encoder
    from tte_retriever_qdrant.stores.opening import is_for_many_writers

    try:
        from tte_retriever_qdrant.distributed import connected, describe_on_ray, ingest_on_ray
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "pyarrow"):
            raise
        message = f"{error.name} is not installed, which --engine ray needs: pip install 'tte-retriever-qdrant[ray]'"
        raise InputError(message) from error
    uri = None
    if is_for_many_writers(store):
        from tte_retriever_qdrant.stores.http import next_uri

        uri = next_uri(store) if reembed else store
    load = partial(load_encoder, options)
    stack.enter_context(connected(address))
    description = describe_on_ray(load, model_name=options.model or "", models=models)
    return description.spec, partial(ingest_on_ray, load_encoder=load, uri=uri, models=models, description=description)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} files/s")


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    times = (_RateColumn(), "ETA", TimeRemainingColumn())
    return Progress("{task.description}", BarColumn(), MofNCompleteColumn(), *times, console=console)


def _print_json(event: Event) -> None:
    fields = {key: value for key, value in asdict(event).items() if key in ("done", "total") or value}
    typer.echo(json.dumps({"event": fields.pop("kind"), **fields}, ensure_ascii=False))


def _print_report(report: Report, store: str) -> None:
    console = Console()
    if report.failed:
        table = Table("file", "reason", "what is wrong", title=f"{len(report.failed)} could not be indexed")
        for failure in report.failed:
            table.add_row(Text(failure.uri), failure.reason, Text(failure.message))
        console.print(table)
    if report.near_duplicates:
        table = Table("file", "is almost", "similarity", title=f"{len(report.near_duplicates)} near-duplicates")
        for pair in report.near_duplicates:
            table.add_row(Text(pair.uri), Text(pair.of), f"{pair.score:.4f}")
        console.print(table)
    counts = {name: getattr(report, name) for name in ("unchanged", "duplicates", "skipped", "removed")}
    counts["failed"] = len(report.failed)
    rest = "".join(f", {count} {name}" for name, count in counts.items() if count)
    summary = f"{report.files} files: {report.indexed} indexed as {report.points} points{rest}; store {store}"
    console.print(Text(summary), soft_wrap=True)
    if report.absent:
        typer.echo(
            f"still searched, though these folders are not there: {', '.join(map(repr, report.absent))}; if they are "
            "gone for good, index what is left with --reembed, or into a new store",
            err=True,
        )
