"""Tiny random checkpoints of all four families, built from their config classes with official-style templates.

Tests get them from the fixtures of ``tests/shared.py``.
"""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
EACH_FAMILY = [family if family == "qwen3_vl" else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
"""For tests that take a second in each family: the fast tier runs the newest one."""

TOKENS = 263  # 256 bytes and the control tokens

HYBRID = {"layer_types": ["linear_attention", "linear_attention", "full_attention"]}
HYBRID |= {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
"""The layers of Qwen3.5: gated delta networks with a convolution over four tokens, and at times full attention."""

CONTENT = """{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'image' or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif part.type == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>\
{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"""
# As Qwen2-VL and Qwen2.5-VL have it: a system turn of their own where none is given.
TEMPLATE_2 = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message.role }}\n"
    + CONTENT
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3-VL has it: a tools branch, and the system turn outside the loop.
TEMPLATE_3 = (
    "{%- if tools %}\n    {{- '<|im_start|>system\\n# Tools\\n' }}\n    {%- for tool in tools %}{{- tool | tojson }}"
    "{%- endfor %}\n    {{- '<|im_end|>\\n' }}\n{%- endif %}\n"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    + CONTENT
    + "{{- '<|im_end|>\\n' }}{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
# As Qwen3.5 has it: a system turn only in front, a query of the user, stripped contents, and a thought that is closed at once.
TEMPLATE_5 = (
    "{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endif %}\n"
    "{%- if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
    "{{- raise_exception('No user query found in messages.') }}{%- endif %}\n"
    "{%- for message in messages %}{%- if message.role == 'system' and not loop.first %}"
    "{{- raise_exception('System message must be at the beginning.') }}{%- endif %}{%- set content %}"
    + CONTENT
    + "{%- endset %}{{- '<|im_start|>' + message.role + '\\n' + content | trim + '<|im_end|>\\n' }}{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}"
    "{{- '<think>\\n' if enable_thinking else '<think>\\n\\n</think>\\n\\n' }}\n{%- endif %}\n"
)


def _tokenizer(family):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    kind = Qwen3_5Tokenizer if family == "qwen3_5" else Qwen2Tokenizer
    tokenizer = kind(
        vocab={byte: index for index, byte in enumerate(alphabet)},
        merges=[],
        pad_token="<|endoftext|>",
        model_max_length=512,
    )
    names = ["endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"]
    tokenizer.add_tokens([f"<|{name}|>" for name in names], special_tokens=True)
    assert len(tokenizer) == TOKENS
    return tokenizer


def _model(family, rows, tied, ids, head_dim=16):
    text = {
        "vocab_size": rows,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 32 // head_dim,
        "num_key_value_heads": 32 // head_dim,
        "head_dim": head_dim,
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [head_dim // 4, head_dim // 8, head_dim // 8],
        },
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if family == "qwen2_vl":
        kind, config = Qwen2VLForConditionalGeneration, Qwen2VLConfig
        vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    else:
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
        if family == "qwen2_5_vl":
            kind, config = Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig
            vision |= {"fullatt_block_indexes": [1], "window_size": 56}
        else:
            kind, config = Qwen3VLForConditionalGeneration, Qwen3VLConfig
            text["rope_parameters"]["mrope_interleaved"] = True
            vision |= {"num_position_embeddings": 64}
            if family == "qwen3_vl":
                vision |= {"deepstack_visual_indexes": [0, 1]}
            else:
                kind, config = Qwen3_5ForConditionalGeneration, Qwen3_5Config
                text |= HYBRID
                text["rope_parameters"] |= {
                    "partial_rotary_factor": 0.5,
                    "mrope_section": [head_dim // 8, head_dim // 16, head_dim // 16],
                }
    torch.manual_seed(0)
    return kind(config(text_config=text, vision_config=vision, tie_word_embeddings=tied, **ids)).eval()


def _processor(family, tokenizer):
    timestamps = family in ("qwen3_vl", "qwen3_5")
    side = 32 if timestamps else 28
    grid = {"patch_size": side // 2, "merge_size": 2, "temporal_patch_size": 2}
    images = Qwen2VLImageProcessor(size={"shortest_edge": side**2, "longest_edge": 16 * side**2}, **grid)
    sizes = {"size": {"shortest_edge": 2 * side**2, "longest_edge": 16 * side**2}}
    if timestamps:
        video = Qwen3VLVideoProcessor(cap_pixels_per_frame=False, **sizes, **grid)
        template = TEMPLATE_3 if family == "qwen3_vl" else TEMPLATE_5
        return Qwen3VLProcessor(images, tokenizer, video, chat_template=template)
    kind = Qwen2VLProcessor if family == "qwen2_vl" else Qwen2_5_VLProcessor
    return kind(images, tokenizer, Qwen2VLVideoProcessor(**sizes, **grid), chat_template=TEMPLATE_2)


def save_checkpoint(folder, family, rows=320, tied=True, head_dim=16):
    """A raw transformers checkpoint."""
    tokenizer = _tokenizer(family)
    added = tokenizer.get_added_vocab()
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    ids = {key: added[f"<|{name}|>"] for key, name in names.items()}
    _model(family, rows, tied, ids, head_dim).save_pretrained(folder)
    _processor(family, tokenizer).save_pretrained(folder)


def save_language_model(folder):
    """A causal language model like Qwen3-0.6B, with a vocabulary in another order than the backbones have."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    tokenizer = Qwen2Tokenizer(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[])
    tokenizer.add_tokens(["<|im_end|>", "<think>"], special_tokens=True)
    tokenizer.eos_token = "<|im_end|>"
    sizes = {"vocab_size": 272, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**sizes, **heads)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weight_names(folder):
    """Names of all weights of a folder, from one file or from shards."""
    names = []
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, "pt") as weights:
            names += weights.keys()
    return sorted(names)


CHAT_MODEL = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
}


def assert_engines_load(folder, family):
    """The architecture and the names of the weights are those of the family's chat model, with nothing left over."""
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [CHAT_MODEL[family]]
    prefixes = (
        ("visual.", "model.") if family in ("qwen2_vl", "qwen2_5_vl") else ("model.visual.", "model.language_model.")
    )
    names = [name for name in weight_names(folder) if name != "lm_head.weight"]
    assert all(name.startswith(prefixes) for name in names)
    assert not any(name.startswith("model.visual.") for name in names) or family in ("qwen3_vl", "qwen3_5")
    for loader in (AutoModelForImageTextToText, AutoModel):
        _, info = loader.from_pretrained(folder, output_loading_info=True)
        left_over = {"lm_head.weight"} if loader is AutoModel else set()
        assert not info["missing_keys"] | info["mismatched_keys"] | (info["unexpected_keys"] - left_over)


MARKS = ["<gen_emb>", "<disc_emb>", "<bot>", "<eot>", "<ct>"]


def adapter_weights(width, experts=4, shared=True, steps=32, seed=0):
    """A random adapter by the names that PLUME's trainer gives it; weights are large, so that mistakes show."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"ln.weight": (width,), "ln.bias": (width,), "step_embed.weight": (steps, width)}
    shapes |= {"router.weight": (experts, 2 * width), "router.bias": (experts,)}
    for expert in [*(f"experts.{index}" for index in range(experts)), *(["shared_expert"] if shared else [])]:
        shapes |= {f"{expert}.fc1.weight": (2 * width, width), f"{expert}.fc1.bias": (2 * width,)}
        shapes |= {f"{expert}.fc2.weight": (width, 2 * width), f"{expert}.fc2.bias": (width,)}
    return {name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for name, shape in shapes.items()}


def save_plume_original(folder, source, edit, marks):
    """A PLUME as its trainer saves it, from a checkpoint of Qwen2-VL."""
    processor = AutoProcessor.from_pretrained(source)
    processor.tokenizer.add_tokens(marks)
    model = Qwen2VLForConditionalGeneration.from_pretrained(source)
    model.resize_token_embeddings(len(processor.tokenizer))
    processor.save_pretrained(folder)
    model.config.save_pretrained(folder)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    weights |= {f"latent_moe_transition.{name}": tensor for name, tensor in adapter_weights(32).items()}
    save_file(edit(weights), folder / "model.safetensors", {"format": "pt"})


ADDED = {"appended": "$A <|endoftext|>", "prepended": "<|im_start|> $A", "both": "<|im_start|> $A <|endoftext|>"}
"""What a tokenizer puts around a sequence."""


def save_embedding_model(folder, raw, added, *, tied):
    """A SentenceTransformer of a raw checkpoint with the traits of Qwen3-VL-Embedding, whose tokenizer adds tokens by itself."""
    transformer = Transformer(str(raw), processing_kwargs={"chat_template": {"add_generation_prompt": True}})
    # A build has no closed thought in front of the embed token, as the generation prompt of Qwen3.5 has.
    transformer.processor.chat_template = re.sub(r"\{\{- '<think>.*?\}\}", "", transformer.processor.chat_template)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    if not tied:  # sentence-transformers saves no output head
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((raw / name).read_bytes())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<|im_start|>", "<|endoftext|>")]
    adding = processors.TemplateProcessing(single=ADDED[added], special_tokens=ids)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), adding])
    tokenizer.save(str(folder / "tokenizer.json"))
