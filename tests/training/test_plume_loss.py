"""PlumeLoss against the reference and against a plain loop over rows; the balance of experts; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tte_retriever import TTEEncoder, build
from tte_retriever.errors import InputError
from tte_retriever.importing import import_checkpoint
from tte_retriever.training.plume.balance import RoutingSummary, batch_balance
from tte_retriever.training.plume.collator import PlumeCollator
from tte_retriever.training.plume.curriculum import Curriculum
from tte_retriever.training.plume.loss import PlumeLoss

REFERENCE = Path(__file__).parents[1] / "fixtures/plume_parity"
ORIGINAL = Curriculum(ratios=(0, 0.25, 0.5, 0.75, 1), segments=4, latents_per_segment=2)
CURRICULUM = Curriculum(ratios=(0, 0.5, 1), segments=4)
PROGRESS = (0.0, 0.25, 0.5, 0.75)
THOUGHT = "It is red. It is round. It is small. So it is a berry."


# ------------------------------------------------------------------------------------------------- the reference


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The imported reference, at the positions that it was trained at."""
    folder = tmp_path_factory.mktemp("reference") / "plume"
    import_checkpoint(REFERENCE / "checkpoint", folder, origin="plume", positions="kv-then-mrope")
    return TTEEncoder(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"}).train()


def reference_columns(tensors, progress):
    """Query and positive as the collator would give them: prefixes padded on the left, in every phase the same suffix."""
    columns = []
    for side in ("qry", "pos"):
        rows = [ids[ids >= 0].astype(np.int64) for ids in tensors[f"{side}/prefix_input_ids"]]
        width = max(map(len, rows))
        ids = torch.tensor([[475] * (width - len(row)) + row.tolist() for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        kinds = (ids == 486).long() + 2 * (ids == 487).long()
        column = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds}
        for pixels, grid, count in (
            ("pixel_values", "image_grid_thw", "num_images_per_sample"),
            ("pixel_values_videos", "video_grid_thw", "num_videos_per_sample"),
        ):
            there = [row for row in range(3) if f"{side}/{grid}/{row}" in tensors]
            if there:
                column[pixels] = torch.from_numpy(np.concatenate([tensors[f"{side}/{pixels}/{row}"] for row in there]))
                column[grid] = torch.tensor(np.concatenate([tensors[f"{side}/{grid}/{row}"] for row in there])).long()
                column[count] = torch.tensor([int(row in there) for row in range(3)])
        suffix = torch.tensor(tensors[f"{progress}/{side}/suffix_input_ids"]).long()
        columns.append({**column, "rationale_ids": suffix[:, None].expand(-1, len(ORIGINAL.phases), -1)})
    return columns


@pytest.mark.parametrize("mini_batch_size", [3, 2], ids=["one-pass", "gradcache"])
@pytest.mark.parametrize("progress", ["0.00", "0.40", "0.80"])
def test_losses_and_gradients_are_those_of_the_reference(reference, progress, mini_batch_size):
    expected = json.loads((REFERENCE / "training_losses.json").read_text())[progress]
    options = {"temperature": 0.02, "learn_temperature": False, "symmetric": True, "mini_batch_size": mini_batch_size}
    # The original adds up the means of both sides.
    loss = PlumeLoss(reference, curriculum=ORIGINAL, rationale_weight=2, balance_weight=0.2, balance="step", **options)
    loss.progress = float(progress)
    with np.load(REFERENCE / "training.npz") as tensors:
        parts = loss(reference_columns(dict(tensors), progress))
    total = torch.stack(list(parts.values())).sum()
    written = parts["rationale"] + parts["balance"]
    found = [total, written, parts["contrastive"], parts["disc"], parts["balance"] / 0.2]
    names = ("loss", "ce_loss", "gen_contrastive_loss", "disc_contrastive_loss", "latent_moe_balance_loss")
    for value, name in zip(found, names, strict=True):
        # A loss of 56 is a sum in float32 over hundreds of tokens; processors add it up in different orders.
        assert value.item() == pytest.approx(expected[name], abs=1e-4, rel=1e-5), name
    assert loss.metrics["routing_entropy"].item() == pytest.approx(expected["latent_moe_router_entropy"], abs=1e-5)
    reference.zero_grad(set_to_none=True)
    total.backward()
    backbone, adapter = reference[0].model, reference[0].adapter
    for name, norm in expected["grad_norms"].items():
        home, _, rest = name.partition(".")
        if home == "model":
            gradient = backbone.get_parameter(rest).grad
        elif rest in ("router.weight", "step_embed.weight"):
            gradient = adapter.get_parameter(rest.replace("step_embed", "steps")).grad
        else:
            continue  # experts are laid out another way
        assert gradient.norm().item() == pytest.approx(norm, rel=2e-3), name


# ------------------------------------------------------------------------------------------------- a plain loop


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("plume") / "m"
    return build(out, backbone=checkpoint("qwen2_vl"), method="plume", think_tokens=4, instruction="embed")


@pytest.fixture
def encoder(folder):
    return TTEEncoder(str(folder), device="cpu").train()


@pytest.fixture
def rows():
    """Pictures in some anchors, a rationale in some, two rows with one positive."""
    noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    pictures = [{"image": Image.fromarray(each)} for each in noise]
    anchors = [{**pictures[0], "text": "what is it?"}, "how many?", pictures[1], "where", "a longer question about it"]
    positives, wrong = ["red", "two", "blue", "two", "a long answer"], ["green", "red", "grey", "black", "a fifth"]
    thoughts = [THOUGHT, "", "One. Two.", THOUGHT, "x"]
    return [
        {"anchor": a, "anchor_rationale": thought, "positive": p, "negative_1": n}
        for a, thought, p, n in zip(anchors, thoughts, positives, wrong, strict=True)
    ]


def columns_of(encoder, rows):
    batch = PlumeCollator(encoder, curriculum=CURRICULUM)(rows)
    names = ("anchor", "positive", "negative_1")
    return [{k.removeprefix(f"{n}_"): v for k, v in batch.items() if k.startswith(f"{n}_")} for n in names]


def row_of(column, row):
    """One row without padding."""
    mask = column["attention_mask"][row].bool()
    one = {key: column[key][row : row + 1, mask] for key in ("input_ids", "mm_token_type_ids")}
    one["attention_mask"] = torch.ones_like(one["input_ids"])
    if "pixel_values" in column:
        counts = column["num_images_per_sample"].tolist()
        patches = column["image_grid_thw"].prod(1).tolist()
        if counts[row]:
            index = sum(counts[:row])
            one["pixel_values"] = column["pixel_values"].split(patches)[index]
            one["image_grid_thw"] = column["image_grid_thw"][index : index + 1]
    return one


def plain(encoder, columns, index, scale=1 / 0.07):
    """The definition, row by row: a whole forward pass for every step, without a cache."""
    thinker, latents = encoder[0], CURRICULUM.phases[index].latents
    backbone = thinker.model
    matrix = backbone.get_input_embeddings().weight
    marks = {mark: encoder.tokenizer.convert_tokens_to_ids(mark) for mark in ("<disc_emb>", "<gen_emb>")}
    nlls, routing, gens, discs = [], [], [], []
    for column in columns:
        gens.append([])
        discs.append([])
        for row in range(len(column["input_ids"])):
            given = row_of(column, row)
            ids = given["input_ids"]
            length, embeddings = ids.shape[1], matrix[ids]
            extra = {key: given[key] for key in ("image_grid_thw",) if key in given}
            positions, _ = backbone.get_rope_index(ids, mm_token_type_ids=given["mm_token_type_ids"], **extra)
            if "pixel_values" in given:
                seen = torch.cat(
                    list(backbone.get_image_features(given["pixel_values"], given["image_grid_thw"]).pooler_output)
                )
                embeddings = embeddings.masked_scatter((ids == backbone.config.image_token_id)[..., None], seen)

            def read(embeddings, positions=positions, length=length, given=given):
                more = torch.arange(embeddings.shape[1] - length) + positions.max() + 1
                where = torch.cat([positions, more.expand(3, 1, -1)], -1)
                return backbone.language_model(
                    inputs_embeds=embeddings, position_ids=where, use_cache=False
                ).last_hidden_state

            states = deep = read(embeddings)
            anchor = deep[:, ids[0].tolist().index(marks["<disc_emb>"])]
            for step in range(latents):
                inputs, probabilities = thinker.adapter(states[:, -1], step, anchor)
                routing.append(probabilities[0])
                embeddings = torch.cat([embeddings, inputs[:, None]], 1)
                states = read(embeddings)
            suffix = column["rationale_ids"][row, index]
            suffix = suffix[suffix >= 0]
            states = read(torch.cat([embeddings, matrix[suffix][None]], 1))[0, -len(suffix) - 1 :]
            nlls.append(F.cross_entropy(states[:-1] @ matrix.T, suffix))
            gens[-1].append(states[1 + suffix.tolist().index(marks["<gen_emb>"])])
            discs[-1].append(anchor[0])

    def contrast(columns_of_states):
        """Distinct candidates, and no negative that is the positive of the same query's row: here none is."""
        vectors = [F.normalize(torch.stack(each), dim=1) for each in columns_of_states]
        ids = torch.cat([column["content_id"] for column in columns[1:]]).tolist()
        docs, order = torch.cat(vectors[1:]), list(dict.fromkeys(ids))
        scores = scale * vectors[0] @ docs[[ids.index(each) for each in order]].T
        forward = F.cross_entropy(scores, torch.tensor([order.index(each) for each in ids[: len(vectors[0])]]))
        back = []
        for row in range(len(vectors[0])):
            rivals = [k for k in range(len(vectors[0])) if k == row or ids[k] != ids[row]]
            back.append(F.cross_entropy(scale * vectors[0][rivals] @ docs[row], torch.tensor(rivals.index(row))))
        return (forward + torch.stack(back).mean()) / 2

    parts = {"contrastive": contrast(gens), "disc": contrast(discs), "rationale": torch.stack(nlls).mean()}
    if latents:
        each = torch.stack(routing)  # (steps, N)
        loads = torch.zeros_like(each).scatter(1, each.topk(2).indices, 0.5).mean(0)
        parts["balance"] = 0.1 * 4 * (loads * each.mean(0)).sum()
    return parts


def gradients(module, parts):
    module.zero_grad(set_to_none=True)
    torch.stack(list(parts.values())).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("index", [0, 1, 3])
def test_values_and_gradients_are_those_of_the_plain_loss(encoder, rows, index):
    columns = columns_of(encoder, rows)
    expected = plain(encoder, columns, index)
    reference = gradients(encoder, expected)
    for mini_batch_size in (8, 3):
        loss = PlumeLoss(
            encoder, curriculum=CURRICULUM, mini_batch_size=mini_batch_size, symmetric=True, learn_temperature=False
        )
        loss.progress = CURRICULUM.phases[index].start
        parts = loss(columns)
        for name, value in expected.items():
            assert parts[name].item() == pytest.approx(value.item(), rel=1e-5), name
        found = gradients(encoder, parts)
        flat = [torch.cat([each[name].flatten() for name in reference]) for each in (found, reference)]
        assert (flat[0] - flat[1]).norm() < 1e-5 * flat[1].norm()


# ------------------------------------------------------------------------------------------------- what it must not do


def test_negatives_that_answer_the_query_are_left_out_of_both_contrastive_parts(encoder, rows):
    def parts(rows):
        loss = PlumeLoss(encoder, curriculum=CURRICULUM)
        loss.progress = 1.0
        return {name: value.item() for name, value in loss(columns_of(encoder, rows)).items()}

    masked = [
        {**row, "answers": ["green", "red"]} if row["positive"] == "red" else {**row, "answers": []} for row in rows
    ]
    before, after = parts(rows), parts(masked)
    assert after["contrastive"] < before["contrastive"]
    assert after["disc"] < before["disc"]
    assert after["rationale"] == pytest.approx(before["rationale"])


def test_the_thought_is_worth_nothing_to_disc_and_everything_to_the_rest(encoder, rows):
    columns = columns_of(encoder, rows)
    loss = PlumeLoss(encoder, curriculum=CURRICULUM)
    loss.progress = 1.0
    with torch.no_grad():
        before = loss(columns)
        torch.manual_seed(0)
        for parameter in encoder[0].adapter.parameters():
            parameter.add_(torch.randn_like(parameter))
        after = loss(columns)
    assert after["disc"] == before["disc"]
    for name in ("contrastive", "rationale", "balance"):
        assert after[name] != before[name], name


def test_no_latent_steps_no_balance(encoder, rows):
    loss = PlumeLoss(encoder, curriculum=CURRICULUM)
    parts = loss(columns_of(encoder, rows))
    assert parts["balance"] == 0
    assert loss.metrics["latent_steps"] == 0
    gradients(encoder, parts)
    assert all(p.grad is None or not p.grad.any() for p in encoder[0].adapter.parameters())


def test_a_balance_over_the_batch_lets_every_step_be_decided():
    decided = torch.eye(4)[None].clamp(min=1e-6)  # (1, K, N): each step has its own expert, all are equally busy
    collapsed = torch.eye(4)[[0, 0, 0, 0]][None].clamp(min=1e-6)
    even, worst = (RoutingSummary.unpacked(RoutingSummary.of(each, 1).packed) for each in (decided, collapsed))
    assert batch_balance(even.probabilities[0], even.loads[0]).item() == pytest.approx(1, abs=1e-4)
    assert batch_balance(worst.probabilities[0], worst.loads[0]).item() == pytest.approx(4, abs=1e-4)
    assert even.deviation.item() == pytest.approx(
        worst.deviation.item(), abs=1e-4
    )  # the original cannot tell them apart
    assert even.entropy.item() < 1e-3


@pytest.mark.slow
def test_the_balance_takes_from_the_busy(encoder, rows):
    """Training on it alone, from a router that sends everything to two of four experts."""
    columns = columns_of(encoder, rows)
    router = encoder[0].adapter.router
    with torch.no_grad():
        router.bias.copy_(torch.tensor([3.0, 3.0, 0.0, 0.0]))
    loss = PlumeLoss(encoder, curriculum=CURRICULUM)
    loss.progress = 1.0
    optimizer = torch.optim.Adam([router.bias], lr=0.1)
    values = []
    for _ in range(20):
        parts = loss(columns)
        values.append(parts["balance"].item() / loss.balance_weight)
        optimizer.zero_grad()
        parts["balance"].backward()
        optimizer.step()
    assert values[0] > 1.8  # 2 is the worst for two of four
    assert min(values) < 1.2


def test_without_an_adapter_there_is_nothing_to_balance(checkpoint, tmp_path, rows):
    out = build(tmp_path / "out", backbone=checkpoint("qwen3_vl"), method="plume", think_tokens=4, experts=0)
    encoder = TTEEncoder(str(out), device="cpu").train()
    with pytest.raises(InputError, match="no experts to balance"):
        PlumeLoss(encoder, curriculum=CURRICULUM)
    columns = columns_of(encoder, rows)
    one_pass, cached = (
        PlumeLoss(encoder, curriculum=CURRICULUM, balance_weight=0, mini_batch_size=size) for size in (8, 3)
    )
    for loss in (one_pass, cached):
        loss.progress = 1.0
    parts = one_pass(columns)
    assert parts.keys() == {"contrastive", "disc", "rationale"}
    for name, value in cached(columns).items():
        assert value.item() == pytest.approx(parts[name].item(), rel=1e-5), name


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"curriculum": Curriculum()}, "8 latent steps"),
        ({"disc_weight": -1}, "disc_weight is -1"),
        ({"balance": "sample"}, "batch or step"),
    ],
)
def test_what_cannot_be_is_refused(encoder, options, complaint):
    with pytest.raises(InputError, match=complaint):
        PlumeLoss(encoder, **({"curriculum": CURRICULUM} | options))


def test_a_model_of_another_method_is_refused():
    with pytest.raises(InputError, match="not a PLUME"):
        PlumeLoss(TTEEncoder("tte-flash-tiny", device="cpu"))


def test_gradient_checkpointing_is_refused_when_it_would_throw_the_cache_away(encoder, rows):
    columns = columns_of(encoder, rows)
    encoder[0].model.gradient_checkpointing_enable()
    with pytest.raises(InputError, match="gradient checkpointing"):
        PlumeLoss(encoder, curriculum=CURRICULUM)(columns)
