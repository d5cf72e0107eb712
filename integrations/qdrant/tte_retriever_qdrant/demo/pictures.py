"""The demo's answers as pictures: a contact sheet, and an HTML page with the same thumbnails."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageOps
from PIL.ImageFont import load_default

from tte_retriever.media import load_image, load_video
from tte_retriever.sources.documents import load_page
from tte_retriever_qdrant.demo.asking import SHOWN, is_expected

if TYPE_CHECKING:
    from pathlib import Path

    from tte_retriever_qdrant.demo.asking import Answer
    from tte_retriever_qdrant.searching import SearchHit

_THUMB = 112
_ROW = _THUMB + 34
_COLUMN = _THUMB + 28
_ASK = 330
_HEAD = 46
_INK, _PALE, _RIGHT, _WRONG = (25, 25, 30), (130, 130, 140), (22, 150, 70), (205, 45, 45)


def thumbnail(hit: SearchHit, folder: Path) -> Image.Image:
    """What a hit looks like, (112, 112) RGB: the picture, the page, the middle of the moment, or the text."""
    path = folder / hit.uri
    if hit.modality == "page":
        picture = load_page(path, hit.page or 1)
    elif hit.modality == "video":
        frames = load_video(path, start_s=hit.start_s or 0.0, end_s=hit.end_s).frames
        picture = frames[len(frames) // 2]
    elif hit.modality == "image":
        picture = load_image(path)
    else:
        picture = Image.new("RGB", (_THUMB, _THUMB), "white")
        text = "\n".join(textwrap.wrap(hit.text or "", 12))
        ImageDraw.Draw(picture).multiline_text((8, 40), text, fill=_INK, font=load_default(17))
    return ImageOps.contain(picture, (_THUMB, _THUMB), Image.Resampling.NEAREST)


def contact_sheet(answers: list[Answer], folder: Path) -> Image.Image:
    """Two columns of questions: what was asked, and the first three hits framed green (right) or red."""
    rows = -(-len(answers) // 2)
    width = _ASK + _COLUMN * (1 + SHOWN)
    sheet = Image.new("RGB", (2 * width, _HEAD + _ROW * rows), "white")
    right = sum(answer.correct for answer in answers)
    title = f"{right} of {len(answers)} questions answered right"
    ImageDraw.Draw(sheet).text((16, 14), title, fill=_INK, font=load_default(18))
    for index, answer in enumerate(answers):
        column, row = divmod(index, rows)
        _draw_answer(sheet, answer, folder, column * width, _HEAD + row * _ROW)
    return sheet


def _draw_answer(sheet: Image.Image, answer: Answer, folder: Path, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    question = answer.question
    draw.line((left + 16, top - 4, left + _ASK + _COLUMN * (1 + SHOWN) - 16, top - 4), fill=(225, 225, 230))
    draw.text((left + 16, top + 4), question.kind.replace("→", ">"), fill=_PALE, font=load_default(13))
    text = "\n".join(textwrap.wrap(question.text, 40))
    draw.multiline_text((left + 16, top + 24), text, fill=_INK, font=load_default(15))
    if question.image is not None:
        sheet.paste(ImageOps.contain(load_image(question.image), (_THUMB, _THUMB)), (left + _ASK, top + 1))
    for column, hit in enumerate(answer.hits, start=1):
        x = left + _ASK + column * _COLUMN
        picture = thumbnail(hit, folder)
        color = _RIGHT if is_expected(hit, question.expected) else _WRONG if column == 1 else _PALE
        draw.rectangle((x - 3, top - 1, x + picture.width + 2, top + picture.height + 2), fill=color)
        sheet.paste(picture, (x, top + 1))
        draw.text((x, top + _THUMB + 6), f"{hit.score:.3f} {_place(hit)}", fill=_INK, font=load_default(12))


def page(answers: list[Answer], folder: Path) -> str:
    """A self-contained HTML page: every question beside its hits."""
    rows = "".join(_row(answer, folder) for answer in answers)
    right = sum(answer.correct for answer in answers)
    return _PAGE.format(summary=f"{right} of {len(answers)} questions answered right", rows=rows)


def _row(answer: Answer, folder: Path) -> str:
    question = answer.question
    asked = _embedded(load_image(question.image)) if question.image is not None else ""
    hits = "".join(
        f"<td class='{'right' if is_expected(hit, question.expected) else 'other'}'>"
        f"{_embedded(thumbnail(hit, folder))}<br>{hit.score:.3f}<br>{html.escape(hit.uri)} {html.escape(_place(hit))}</td>"
        for hit in answer.hits
    )
    mark = "✓" if answer.correct else "✗"
    text = f"<small>{html.escape(question.kind)}</small><br>{html.escape(question.text)}"
    return f"<tr><td>{mark}</td><td>{text}</td><td>{asked}</td>{hits}</tr>\n"


def _embedded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _place(hit: SearchHit) -> str:
    if hit.page is not None:
        return f"page {hit.page}"
    return "" if hit.start_s is None else f"{hit.start_s:.0f} to {hit.end_s:.0f} s"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>tte-retriever demo</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #19191e }}
td {{ padding: .5rem; vertical-align: top; border-top: 1px solid #e1e1e6 }}
td.right {{ background: #e3f6ea }} small {{ color: #82828c }} img {{ width: 112px; image-rendering: pixelated }}
</style>
<h1>{summary}</h1>
<p>Each question was searched in the new index. Beside it are the three best hits, the right one on green.
The bundled model was trained on this small drawn world alone.</p>
<table>{rows}</table></html>
"""
