"""Import the public PLUME checkpoint (arXiv 2604.02073)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoProcessor

from tte_retriever.backbones import backbone_spec, load_backbone
from tte_retriever.backbones.rows import check_rows
from tte_retriever.errors import CheckpointError
from tte_retriever.importing.layout import check_names, load_backbone_weights, read_weights
from tte_retriever.methods.plume import PlumeTransformer, modules
from tte_retriever.methods.plume_options import Context, PlumeOptions, Positions, Readout
from tte_retriever.methods.plume_prompt import check_plume_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import Qwen2VLProcessor

_ADAPTER = re.compile(r"(?:^|\.)latent_moe_transition\.")
_VIDEO_FRAMES = 8
"""Frames per video, as its authors take them."""

CARD = """# {name}, imported

PLUME (arXiv 2604.02073): `{name}` with its adapter, and with what its authors keep on their command line, in the layout of
`tte-retriever`. The weights are theirs, unchanged, and so is their licence.

`TTEEncoder` of `tte-retriever` loads this folder, or `SentenceTransformer` with `trust_remote_code=True`. `think_budget` is the
number of latent steps; all settings are under `plume` in `sentence_bert_config.json`. A text alone is shown a white picture,
and of several images in an item the first is seen, as by the authors' evaluation.

Imported by `tte-retriever import --from plume`.
"""


@dataclass(frozen=True)
class Settings:
    """Settings that the authors pass on their command line; the rest of :class:`PlumeOptions` is read from the weights.

    Attributes:
        steps: K, the number of latent steps.
        active_experts: Number of experts that are chosen at each step.
        context: Hidden state that the router reads.
        positions: Positions of the latent steps.
        prefix: Text before the latent steps.
        suffix: Text after the latent steps.
        readout: Token whose hidden state is the vector.
    """

    steps: int = 8
    active_experts: int = 2
    context: Context = "disc"
    positions: Positions = "kv"
    prefix: str = "<think><bot>"
    suffix: str = "<eot></think>\n<gen_emb>"
    readout: Readout = "gen"


def load(folder: Path, settings: Settings) -> SentenceTransformer:
    """Load a folder that PLUME's trainer saved.

    Args:
        folder: The original folder.
        settings: Settings that are not in its files.

    Raises:
        CheckpointError: A token, an adapter or a weight is missing, or a weight is not expected.
        InputError: Settings that cannot be used.
    """
    # Refuse wrong options before gigabytes are read.
    PlumeOptions(context=settings.context, positions=settings.positions, readout=settings.readout)
    processor = _processor(folder)
    check_plume_tokens(processor.tokenizer)
    weights = read_weights(folder)
    adapter = {_ADAPTER.split(name)[-1]: weights.pop(name) for name in list(weights) if _ADAPTER.search(name)}
    options = _options(settings, adapter, folder)
    model = load_backbone_weights(folder, weights)
    matrix = model.get_input_embeddings()
    assert isinstance(matrix, torch.nn.Embedding)
    check_rows(processor.tokenizer, matrix, str(folder))
    state = _adapter_state(adapter, options, model.config.text_config.hidden_size)
    with TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
        thinker, *head = modules(load_backbone(scratch), options)
    assert isinstance(thinker, PlumeTransformer)
    thinker.adapter.load_state_dict(state)
    return SentenceTransformer(modules=[thinker, *head], similarity_fn_name="cosine", device="cpu")


def _processor(folder: Path) -> Qwen2VLProcessor:
    """The processor with the sizes that the authors' evaluation sets."""
    try:
        backbone_spec(AutoConfig.from_pretrained(folder).model_type)
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The processor in {str(folder)!r} cannot be loaded ({(str(error).splitlines() or ['no reason given'])[0]}). "
            "Folders named checkpoint-N lack preprocessor_config.json and the chat template; copy them from "
            "Qwen2-VL-2B-Instruct."
        ) from error
    if not processor.chat_template:
        raise CheckpointError(
            f"{str(folder)!r} has no chat template; copy chat_template.json from Qwen2-VL-2B-Instruct."
        )
    fewest, most = PlumeOptions().resize_stages[-1]
    videos = processor.video_processor
    for each in (processor.image_processor, videos):
        each.size = {"shortest_edge": fewest, "longest_edge": most}
    videos.cap_pixels_per_frame = False  # no budget for a whole video
    videos.min_frames = videos.max_frames = _VIDEO_FRAMES
    return processor


def _options(settings: Settings, adapter: Mapping[str, torch.Tensor], folder: Path) -> PlumeOptions:
    if not adapter:
        raise CheckpointError(
            f"{str(folder)!r} has no adapter: no weight is named latent_moe_transition. It is a plain backbone, or was "
            "saved by LoRA, which leaves the adapter out; give PLUME's own folder."
        )
    if lacking := [name for name in ("router.weight", "step_embed.weight") if name not in adapter]:
        raise CheckpointError(f"The adapter in {str(folder)!r} lacks {', '.join(lacking)}; give the complete folder.")
    return PlumeOptions(
        **asdict(settings),
        experts=len(adapter["router.weight"]),
        shared_expert=any(name.startswith("shared_expert.") for name in adapter),
        step_table=len(adapter["step_embed.weight"]),
    )


def _adapter_state(adapter: Mapping[str, torch.Tensor], options: PlumeOptions, width: int) -> dict[str, torch.Tensor]:
    """Convert the adapter, which has one network per expert in the original and one for all experts here."""
    experts = [*(f"experts.{index}" for index in range(options.experts)), *["shared_expert"] * options.shared_expert]
    expert_shapes = {
        "fc1.weight": (2 * width, width),
        "fc1.bias": (2 * width,),
        "fc2.weight": (width, 2 * width),
        "fc2.bias": (width,),
    }
    shapes = {f"{expert}.{name}": shape for expert in experts for name, shape in expert_shapes.items()}
    shapes |= {
        "ln.weight": (width,),
        "ln.bias": (width,),
        "step_embed.weight": (options.step_table, width),
        "router.weight": (options.experts, 2 * width),
        "router.bias": (options.experts,),
    }
    check_names(shapes, adapter, "adapter")

    def of_all(name: str) -> list[torch.Tensor]:
        return [adapter[f"{expert}.{name}"] for expert in experts]

    return {
        "norm.weight": adapter["ln.weight"],
        "norm.bias": adapter["ln.bias"],
        "steps.weight": adapter["step_embed.weight"],
        "router.weight": adapter["router.weight"],
        "router.bias": adapter["router.bias"],
        "up.weight": torch.cat(of_all("fc1.weight")),  # ((N + shared) 2D, D)
        "up.bias": torch.cat(of_all("fc1.bias")),  # ((N + shared) 2D,)
        "down.weight": torch.cat(of_all("fc2.weight"), dim=1),  # (D, (N + shared) 2D)
        "down_bias": torch.stack(of_all("fc2.bias")),  # (N + shared, D)
    }
