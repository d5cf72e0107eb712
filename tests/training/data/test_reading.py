"""Files of pairs, sound and broken, as people have them."""

from __future__ import annotations

import json
import logging

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tte_retriever.errors import InputError
from tte_retriever.media import VideoFrames, typed_input
from tte_retriever.training.data import content_id, decode_item, read_pairs, split_by_source


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    for name, color in (("a.png", "red"), ("b.png", "blue"), ("sub/c.png", "green"), ("images/blank.jpg", "white")):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), color).save(folder / name)
    (tmp_path / "secret.png").write_bytes((folder / "a.png").read_bytes())
    return folder


@pytest.fixture
def write(tmp_path):
    def make(*rows, name="train.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return make


def items(dataset, column):
    return [decode_item(item) for item in dataset[column]]


def test_pairs_of_every_shape(write, root):
    chat = [{"role": "user", "content": [{"type": "image", "image": "b.png"}, {"type": "text", "text": "this?"}]}]
    path = write(
        {"anchor": "q", "positive": {"text": "t", "image": "a.png"}, "negative_1": "n", "positive_rationale": "think"},
        {"anchor": {"image": ["a.png", "sub/c.png"]}, "positive": chat, "negative_1": {"video": ["a.png", "b.png"]}},
        {"anchor": "q", "positive": "p", "negative_1": "n", "anchor_answer": "t"},
    )
    dataset = read_pairs(path, format="pairs", media_root=root)
    assert items(dataset, "anchor") == ["q", {"image": [root / "a.png", root / "sub/c.png"]}, "q"]
    assert list(items(dataset, "positive")[0]) == ["text", "image"]  # the order in which it is read
    assert items(dataset, "positive")[1][0]["content"][0] == {"type": "image", "image": root / "b.png"}
    assert dataset["positive_rationale"][:] == ["think", "", ""]
    assert dataset["anchor_answer"][:] == ["", "", "t"]
    assert dataset["origin"][:] == [f"{path}:1", f"{path}:2", f"{path}:3"]
    assert isinstance(typed_input(items(dataset, "negative_1")[1])["video"], VideoFrames)


def test_ids_and_answers(write, root):
    path = write({"anchor": "q", "positive": "p", "positive_id": 7, "answers": ["8", "9"], "extra": {"left": "alone"}})
    row = read_pairs(path, format="pairs", media_root=root)[0]
    assert (row["anchor_id"], row["positive_id"], row["answers"]) == ("", "7", ["8", "9"])


BROKEN = [
    (b'{"anchor": "q", ', "not JSON"),
    (b'{"anchor": "\xff", "positive": "p"}', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'["q", "p"]', "a JSON list"),
    ({"anchor": "q"}, "'positive' is missing"),
    ({"anchor": "q", "positive": None}, "'positive' is missing"),
    ({"anchor": "q", "positive": "  "}, "positive: the text is empty"),
    ({"anchor": "q", "positive": 3}, "positive: "),
    ({"anchor": "q", "positive": {"picture": "a.png"}}, "'picture'"),
    ({"anchor": "q", "positive": {"image": "gone.png"}}, "gone.png"),
    ({"anchor": "q", "positive": {"image": "sub"}}, "is not a file"),
    ({"anchor": "q", "positive": {"image": "a\0.png"}}, "cannot be used as a path"),
    ({"anchor": "q", "positive": {"image": "../secret.png"}}, "leads out of the media root"),
    ({"anchor": "q", "positive": {"image": "link.png"}}, "leads out of the media root"),
    ({"anchor": "q", "positive": {"image": "/etc/passwd"}}, "leads out of the media root"),
    ({"anchor": "q", "positive": {"image": []}}, "empty list"),
    ({"anchor": "q", "positive": {"image": 5}}, "relative to the media root"),
    ({"anchor": "q", "positive": [{"role": "user", "content": [{"type": "image", "url": "http://x/y.png"}]}]}, "url"),
    ({"anchor": "q", "positive": "\ud800"}, "surrogate"),
    ({"anchor": "q", "positive": "p", "anchor_rationale": "x" * 101}, "101 characters"),
    ({"anchor": "q", "positive": "p", "anchor_rationale": ["x"]}, "anchor_rationale"),
    ({"anchor": "q", "positive": "p", "anchor_COT": "x"}, "'anchor_COT' is not known"),
    ({"anchor": "q", "positive": "p", "negative_2": "x"}, "'negative_2' is not known"),
    ({"anchor": "q", "positive": "p", "positive_id": True}, "positive_id"),
    ({"anchor": "q", "positive": "p", "answers": [1]}, "an answer"),
]


def test_broken_rows_are_set_aside_and_never_shift_the_others(write, root, tmp_path, caplog):
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [{"anchor": f"q{line}", "positive": f"p{line}"} for line in range(1, 2 * len(BROKEN) + 2)]
    rows[1::2] = [row for row, _ in BROKEN]
    path, out = write(*rows), tmp_path / "out/quarantine.jsonl"
    with caplog.at_level(logging.WARNING):
        dataset = read_pairs(path, format="pairs", media_root=root, quarantine=out, max_rationale_chars=100)
    odd = range(1, 2 * len(BROKEN) + 2, 2)
    assert items(dataset, "anchor") == [f"q{line}" for line in odd]
    assert items(dataset, "positive") == [f"p{line}" for line in odd]
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["line"] for row in found] == list(range(2, 2 * len(BROKEN) + 1, 2))
    assert {row["file"] for row in found} == {str(path)}
    for row, (_, reason) in zip(found, BROKEN, strict=True):
        assert reason in row["reason"]
    assert f"{len(BROKEN)} unusable" in caplog.text

    before = out.read_text()
    read_pairs(path, format="pairs", media_root=root, quarantine=out, max_rationale_chars=100)
    assert out.read_text() == before  # reading again adds nothing


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_failures": 1}, "more than 1 unusable rows"),
        ({"format": "csv"}, "pairs, mmeb, ume"),
        ({"media_root": "nowhere"}, "is not a folder"),
    ],
)
def test_what_is_refused(write, root, options, complaint):
    path = write({"anchor": "q", "positive": "p"}, b"{", b"{")
    assert len(read_pairs(path, format="pairs", media_root=root, max_failures=2)) == 1
    with pytest.raises(InputError, match=complaint):
        read_pairs(path, **{"format": "pairs", "media_root": root} | options)


def test_nothing_usable_is_an_error_and_still_quarantined(write, root, tmp_path):
    with pytest.raises(InputError, match=r"no usable row \(2 unusable\); the first is line 1"):
        read_pairs(write(b"{", b"{"), format="pairs", media_root=root, quarantine=tmp_path / "q.jsonl")
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 2
    for name, content in (("empty.jsonl", b""), ("rows.json", b"[]"), ("rows.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            read_pairs(tmp_path / name, format="pairs", media_root=root)


def test_negatives_are_as_many_in_every_row(write, root):
    rows = [{"anchor": "q", "positive": "p"} | {f"negative_{i + 1}": f"n{i}" for i in range(n)} for n in (2, 1, 3)]
    dataset = read_pairs(write(*rows), format="pairs", media_root=root)
    assert len(dataset) == 2
    assert "negative_3" not in dataset.column_names
    assert items(dataset, "negative_2") == ["n1", "n1"]
    assert len(read_pairs(write(*rows), format="pairs", media_root=root, negatives=1)) == 3
    with pytest.raises(InputError, match="3 negatives instead of 4"):
        read_pairs(write(rows[2]), format="pairs", media_root=root, negatives=4)


MMEB = [
    {
        "qry": "<|image_1|>\nWhat is it?",
        "qry_image_path": "a.png",
        "pos_text": "red\n",
        "pos_image_path": "",
        "neg_text": ["blue", ""],
        "neg_image_path": ["", "b.png"],
    },
    {"qry": "<|image_1|> no image", "qry_image_path": "", "pos_text": "x"},
    {
        "qry": "find",
        "qry_image_path": None,
        "pos_text": "<|image_1|>",
        "pos_image_path": "sub/c.png",
        "neg_text": ["blue", "green", ""],
        "neg_image_path": ["", "", ""],
    },
]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_mmeb(write, root, tmp_path, suffix):
    path = write(*MMEB)
    if suffix == "parquet":
        path = tmp_path / "train.parquet"
        pq.write_table(pa.Table.from_pylist(MMEB), path)
    dataset = read_pairs(path, format="mmeb", media_root=root, quarantine=tmp_path / "q.jsonl")
    assert items(dataset, "anchor") == [{"image": root / "a.png", "text": "What is it?"}, {"text": "find"}]
    assert items(dataset, "positive") == [{"text": "red"}, {"image": root / "sub/c.png"}]
    assert items(dataset, "negative_1") == [{"text": "blue"}] * 2
    assert items(dataset, "negative_2") == [{"image": root / "b.png"}, {"text": "green"}]
    assert [json.loads(line)["line"] for line in (tmp_path / "q.jsonl").read_text().splitlines()] == [2]


def side(human, gpt=None, **media):
    turns = [{"from": "human", "value": human}] + ([{"from": "gpt", "value": gpt}] if gpt else [])
    return {"conversations": turns, **media}


def test_ume(write, root, tmp_path):
    answer = "<think>It is red.</think><answer>a red\nsquare</answer>\n<gen_emb>"
    asked = "\n<disc_emb>\nRepresent the above input …"
    path = write(
        {
            "qry": side(f"<image>\nWhat color?{asked}", answer, image="a.png"),
            "pos": [side(f"red{asked}", "<think>Short.</think><answer>red</answer><gen_emb>")],
            "dataset_name": "A-OKVQA",
        },
        {
            "qry": side(f"<image>\nfind it{asked}", image=["images/blank.jpg"]),
            "pos": {"conversations": [{"role": "user", "content": "<video>"}], "videos": ["a.png", "b.png"]},
            "dataset_name": "clips",
        },
        {"qry": side("like <image> but <image>", images=["a.png", "b.png"]), "pos": side("x"), "source": "A-OKVQA"},
        {"qry": side("<image>", image=[]), "pos": side("x")},
        {"qry": side("no tag", image="a.png"), "pos": side("x")},
        {"qry": side("q", "just an answer"), "pos": side("x")},
        {"qry": side("<image>", image="images/blank.jpg"), "pos": side("x")},
        {"qry": {"conversations": "?"}, "pos": side("x")},
    )
    dataset = read_pairs(path, format="ume", media_root=root, quarantine=tmp_path / "q.jsonl")
    first, second, third = items(dataset, "anchor")
    image = {"type": "image", "image": root / "a.png"}
    assert first == [{"role": "user", "content": [image, {"type": "text", "text": "What color?"}]}]
    assert second == {"text": "find it"}
    assert [part["type"] for part in third[0]["content"]] == ["text", "image", "text", "image"]
    assert dataset["anchor_rationale"][:] == ["It is red.", "", ""]
    assert dataset["anchor_answer"][:] == ["a red\nsquare", "", ""]
    assert (dataset["positive_rationale"][0], dataset["positive_answer"][0]) == ("Short.", "red")
    video = items(dataset, "positive")[1][0]["content"]
    assert video == [{"type": "video", "video": [root / "a.png", root / "b.png"]}]
    reasons = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [row["line"] for row in reasons] == [4, 5, 6, 7, 8]

    by_source = split_by_source(dataset)
    assert {name: each["origin"][:] for name, each in by_source.items()} == {
        "A-OKVQA": [f"{path}:1", f"{path}:3"],
        "clips": [f"{path}:2"],
    }


def test_a_dataset_on_disk_is_the_same(write, root, tmp_path):
    path = write(*({"anchor": f"q{i}", "positive": {"image": "a.png"}, "answers": ["x"] * i} for i in range(3)))
    dataset = read_pairs(path, format="pairs", media_root=root)
    dataset.shuffle(seed=1).save_to_disk(tmp_path / "saved")
    loaded = datasets.load_from_disk(tmp_path / "saved")
    assert sorted(loaded, key=lambda row: row["origin"]) == list(dataset)


def test_content_ids():
    image, array = Image.new("RGB", (4, 4), "red"), np.zeros((4, 4, 3), np.uint8)
    same = [
        ["a cat", {"text": "a cat\n"}, [{"role": "user", "content": "a cat"}], {"message": [{"role": "user", "content": "a cat"}]}],
        [image, {"image": image.copy()}, {"image": [image]}, [{"role": "user", "content": [{"type": "image", "image": image}]}]],
        [array, {"image": array.copy()}],
        [array[None], {"video": array[None]}],
        [{"text": "a", "image": image}],
        [{"image": image, "text": "a"}],
        [{"image": [image, array]}],
        [{"video": [image, array]}],
    ]  # fmt: skip
    found = [{content_id(item) for item in group} for group in same]
    assert all(len(group) == 1 for group in found)
    assert len(set.union(*found)) == len(same)
    assert all(0 <= number < 2**63 for group in found for number in group)
    assert content_id("a cat") == 6581474685361245966  # the same in every process and release
    with pytest.raises(InputError):
        content_id(3)
