r"""Write rationales into a JSONL of training pairs, with any vision-language model behind an OpenAI-compatible endpoint.

    python recipes/generate_rationales.py train.jsonl train-rationales.jsonl --media-root media \
        --endpoint http://localhost:8000/v1 --model Qwen/Qwen2.5-VL-72B-Instruct

For a local model, serve it (vLLM, llama.cpp) and give that endpoint; for a hosted model, set OPENAI_API_KEY to its key.
Each row is written and synced as soon as it is done, with its line number: run the same command again to go on after
an interruption. Rows without a usable rationale are quarantined, and the next run tries them again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import io
import json
import os
import random
import re
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from tqdm import tqdm

from tte_retriever.errors import InputError, TTEError
from tte_retriever.media import VideoFrames, VideoSampling, typed_input
from tte_retriever.training.data import FORMATS, RejectedRow, TrainingPair, decode_item, encode_item, quarantine_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

PROMPT = """Above is one item of a retrieval collection: a query or something that may be found. Think about what it \
shows, says or asks for, so that the right match can be told from similar ones. Name what matters: objects, their \
properties and relations, text that can be read, events in their order, and for a question its answer. Write plain \
sentences in one paragraph of at most {max_words} words, without headings or lists. End with one sentence that sums it up."""

REFUSAL = re.compile(
    r"(?:i['’]m sorry|i apologi[sz]e|i can(?:no|['’])t|i am (?:unable|not able)|as an ai\b)", re.IGNORECASE
)
RETRIED = (408, 409, 429, 500, 502, 503, 504, 529)
FATAL = (401, 402, 403, 404)  # for any row: key, account or address are wrong

Row: TypeAlias = dict[str, Any]


class EndpointError(TTEError):
    """The endpoint cannot be used; finished rows are kept."""


class RationaleError(TTEError):
    """The answer of the endpoint is not a usable rationale."""


# ------------------------------------------------------------------------------------------------- one rationale


def data_url(image: Image.Image, max_side: int) -> dict[str, Any]:
    """The content part of an image, scaled down to ``max_side`` px."""
    image.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}


def content(item: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The content parts of a request: those of the item in order, videos as frames, then the prompt."""
    typed: Any = typed_input(item, video=VideoSampling(max_frames=args.frames))
    turns = typed.get("message", [{"content": [{"type": kind, kind: value} for kind, value in typed.items()]}])
    shown: list[dict[str, Any]] = []
    for turn in turns:
        parts = turn["content"]
        for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
            value = part[part["type"]]
            if isinstance(value, str):
                shown.append({"type": "text", "text": value})
                continue
            frames = value.frames if isinstance(value, VideoFrames) else value if isinstance(value, list) else [value]
            shown += [data_url(frame, args.max_side) for frame in frames]
    return [*shown, {"type": "text", "text": PROMPT.format(max_words=args.max_words)}]


def ask(parts: list[dict[str, Any]], args: argparse.Namespace) -> Any:
    """Send one request, repeat it while the endpoint is busy, and return its JSON."""
    body = {"model": args.model, "messages": [{"role": "user", "content": parts}], "max_tokens": args.max_tokens}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    url = args.endpoint.rstrip("/") + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310  (main has checked it)
    for attempt in range(args.retries + 1):
        pause = args.backoff * 2**attempt * random.uniform(0.5, 1.0)
        try:
            with urllib.request.urlopen(request, timeout=args.timeout) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}: {error.read(300).decode(errors='replace').strip() or error.reason}"
            if error.code in FATAL:
                raise EndpointError(f"{url} refuses: {reason}. Check the address, the model and the key.") from error
            if error.code not in RETRIED:
                raise RationaleError(reason) from error
            if (after := error.headers.get("Retry-After", "")).isdigit():
                pause = int(after)
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut short
            reason = repr(error)
        except ValueError as error:
            raise RationaleError(f"malformed answer: no JSON ({error})") from error
        if attempt < args.retries:
            time.sleep(min(pause, 120))
    raise EndpointError(f"{url} failed {args.retries + 1} times, the last with {reason}. Run it again to go on.")


def checked(answer: Any, max_words: int) -> str:
    """The rationale in an answer, without the reasoning that a model puts in front of it.

    Raises:
        RationaleError: It is empty, cut off, a refusal, too long or not plain text.
    """
    try:
        choice = answer["choices"][0]
        text, ended = choice["message"]["content"], choice.get("finish_reason")
        text = text.rpartition("</think>")[2].strip()
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise RationaleError(f"malformed answer: {json.dumps(answer)[:200]}") from error
    if ended == "length":
        raise RationaleError("the answer was cut off; raise --max-tokens")
    if not text:
        raise RationaleError("the answer is empty")
    if REFUSAL.match(text):
        raise RationaleError(f"the model refused: {text[:100]!r}")
    if re.search(r"<\|\w+\|>|^\s*(?:#|```|[-*•] |\d+\. )", text, re.MULTILINE):
        raise RationaleError(f"not plain sentences: {text[:100]!r}")
    words = len(text.split())
    if words > max_words:
        raise RationaleError(f"{words} words; at most {max_words} are allowed (--max-words)")
    return " ".join(text.split())


def complete(row: Row, args: argparse.Namespace) -> Row:
    """The row with a rationale for each of ``args.columns`` that has none yet."""
    rationales: Row = {}
    for column in args.columns:
        if column not in row:
            raise InputError(f"{column!r} is missing")
        if not row.get(f"{column}_rationale"):
            item = decode_item({"json": encode_item(row[column], args.media_root)})
            rationales[f"{column}_rationale"] = checked(ask(content(item, args), args), args.max_words)
    return row | rationales


# ------------------------------------------------------------------------------------------------- the whole file


def digest(line: bytes) -> str:
    """Hash an input line, to see whether it has changed since its output was written."""
    return hashlib.sha256(line.strip()).hexdigest()[:16]


def finished(out: Path) -> dict[int, str]:
    """Line number → digest of each finished line; a row that an interruption left incomplete is removed."""
    if not out.exists():
        return {}
    done = {}
    with out.open("rb+") as file:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                done[row["generated"]["line"]] = row["generated"]["digest"]
            except (ValueError, KeyError, TypeError) as error:
                message = f"{str(out)!r} was not written by this recipe ({error!r} in it); give another file"
                raise InputError(message) from error
            whole += len(line)
        file.truncate(whole)
    return done


def to_do(lines: BinaryIO, done: dict[int, str], args: argparse.Namespace) -> Iterator[tuple[int, bytes]]:
    """Numbers and texts of the lines that are not finished."""
    for number, line in enumerate(lines, 1):
        if number in done and done[number] != digest(line):
            raise InputError(
                f"line {number} of {str(args.input)!r} is not the line that {str(args.out)!r} was made from"
            )
        if number not in done and line.strip():
            yield number, line


def pairs_row(pair: TrainingPair) -> Row:
    """A pair of another format as a row of the format ``pairs``."""
    row = {"anchor": pair.anchor, "positive": pair.positive, "source": pair.source}
    row |= {"anchor_rationale": pair.anchor_rationale, "positive_rationale": pair.positive_rationale}
    return row | {f"negative_{number}": item for number, item in enumerate(pair.negatives, 1)}


def work(number: int, line: bytes, args: argparse.Namespace) -> Row | RejectedRow:
    """The finished row of one line, or the reason why there is none."""
    try:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError("no JSON object")
        if args.format != "pairs":
            row = pairs_row(FORMATS[args.format](row))
        return complete(row, args) | {"generated": {"line": number, "digest": digest(line)}}
    except (InputError, RationaleError) as error:
        return RejectedRow(str(args.input), number, str(error))


def generate(args: argparse.Namespace) -> tuple[int, int]:
    """Finish all lines; returns the numbers of rows that were written and quarantined."""
    done = finished(args.out)
    written = rejected = 0
    pending: set[Future[Row | RejectedRow]] = set()
    with args.input.open("rb") as lines, args.out.open("ab") as out:
        total = sum(1 for line in lines if line.strip())
        lines.seek(0)
        left = to_do(lines, done, args)
        pool = ThreadPoolExecutor(args.concurrency)
        try:
            with tqdm(total=total, initial=len(done), unit="row") as progress:
                while True:
                    while len(pending) < 2 * args.concurrency and (job := next(left, None)) is not None:
                        pending.add(pool.submit(work, *job, args))
                    if not pending:
                        return written, rejected
                    ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for result in (future.result() for future in ready):
                        if isinstance(result, RejectedRow):
                            quarantine_rows(args.quarantine, [result])
                            rejected += 1
                        else:
                            out.write(json.dumps(result).encode() + b"\n")
                            out.flush()
                            os.fsync(out.fileno())
                            written += 1
                        progress.update()
        finally:
            pool.shutdown(cancel_futures=True)


def positive(text: str) -> int:
    """A count on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main() -> None:
    """Parse, check, generate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="pairs, one JSON object per line")
    parser.add_argument("--format", default="pairs", choices=list(FORMATS), help="of INPUT; OUT is always pairs")
    parser.add_argument("out", type=Path, help="the rows with rationales, in the order in which they are done")
    parser.add_argument("--endpoint", required=True, help="such as http://localhost:8000/v1")
    parser.add_argument("--model", required=True, help="as the endpoint names it")
    parser.add_argument("--media-root", type=Path, default=Path())
    parser.add_argument("--columns", nargs="+", default=["anchor", "positive"], choices=["anchor", "positive"])
    parser.add_argument("--quarantine", type=Path, help="where unusable rows go (default: OUT.quarantine.jsonl)")
    parser.add_argument("--max-words", type=positive, default=150)
    parser.add_argument(
        "--max-tokens", type=positive, default=2048, help="what the endpoint may write, its thoughts included"
    )
    parser.add_argument("--max-side", type=positive, default=1024, help="longest side of an image, in pixels")
    parser.add_argument("--frames", type=positive, default=8, help="most frames of a video")
    parser.add_argument("--concurrency", type=positive, default=8, help="requests at a time")
    parser.add_argument("--retries", type=int, default=6)
    parser.add_argument(
        "--backoff", type=float, default=1.0, help="first pause before a retry, in seconds; it doubles"
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="of one request, in seconds")
    args = parser.parse_args()
    if not args.endpoint.startswith(("http://", "https://")):
        parser.error(f"--endpoint is {args.endpoint!r}; give an http:// or https:// address")
    if not args.input.is_file() or not args.media_root.is_dir() or args.input.resolve() == args.out.resolve():
        parser.error("INPUT must be a file, --media-root a folder, and OUT another file than INPUT")
    args.quarantine = args.quarantine or args.out.with_name(args.out.name + ".quarantine.jsonl")
    try:
        written, rejected = generate(args)
    except TTEError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    kept = f", {rejected} quarantined in {args.quarantine}" if rejected else ""
    print(f"{written} rows written to {args.out}{kept}")


if __name__ == "__main__":
    main()
