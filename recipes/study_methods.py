"""Train several methods on the same data for the same steps, and score them on mini-MMEB.

    python recipes/build_tiny_model.py recipes/configs/build_tiny_model/tiny.yaml --set output_dir=runs/bundled-model \
        --until transcription
    python recipes/study_methods.py recipes/configs/study_methods/tiny.yaml --arms direct tte-flash --seeds 0

Every arm starts from the same backbone, which has learnt to read pixels and nothing else, and is the base config with the
arm's changes. Run again, it goes on: finished arms are skipped. ``output_dir/<arm>-<seed>.json`` is what
``tte-retriever eval`` writes, with the steps and CPU seconds of the training beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.evaluation import mini_mmeb
from tte_retriever.training.config import read_values
from tte_retriever.training.methods import read_config
from tte_retriever.training.parsing import from_mapping
from tte_retriever.training.run import train
from tte_retriever.training.tiny_backbone import bare_backbone


@dataclass(frozen=True)
class StudyConfig:
    """The study.

    Attributes:
        output_dir: Where it goes.
        reader: A checkpoint of the small world, whose backbone every arm starts from.
        base: What all arms share, as in any training config.
        arms: Name → what it changes in the base; lists are replaced, mappings are merged.
        queries: Per task of mini-MMEB.
        split: Of mini-MMEB: ``validation`` as long as anything is chosen.
        eval_seed: Of mini-MMEB.
    """

    output_dir: str
    reader: str
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    queries: int = 500
    split: str = "validation"
    eval_seed: int = 0


def merged(base: Any, changes: Any) -> Any:
    """``base`` with ``changes``: mappings key by key, everything else as a whole."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return base | {key: merged(base.get(key), value) for key, value in changes.items()}


def run_arm(study: StudyConfig, arm: str, seed: int, backbone: Path) -> Path:
    """Train one arm with one seed and score it; what is there already is not done again."""
    out = Path(study.output_dir)
    result, written = out / f"{arm}-{seed}.json", out / f"{arm}-{seed}.yaml"
    if result.exists():
        return result
    own = {"output_dir": str(out / f"{arm}-{seed}"), "seed": seed, "model": {"backbone": str(backbone)}}
    written.write_text(yaml.safe_dump(merged(merged(study.base, study.arms[arm]), own), sort_keys=False))
    config = read_config(written)
    started = time.process_time()
    model = train(config)
    trained = time.process_time()
    report = mini_mmeb.evaluate(
        TTEEncoder(str(model), device="cpu"),
        name=arm,
        split=study.split,  # type: ignore[arg-type]  # any other word is refused with a sentence
        seed=study.eval_seed,
        queries=study.queries,
    )
    record = report.to_dict() | {
        "training_seed": seed,
        "steps": {stage.name: stage.steps for stage in config.stages},
        "training_cpu_s": round(trained - started),
        "evaluation_cpu_s": round(time.process_time() - trained),
    }
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return partial.replace(result)


def main() -> None:
    """Read the config and run the arms that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--arms", nargs="*", help="names of arms; all if not given")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = from_mapping(StudyConfig, read_values(arguments.config, arguments.set))
    arms = arguments.arms or list(study.arms)
    if unknown := [arm for arm in arms if arm not in study.arms]:
        raise InputError(f"The study has no arm {unknown[0]!r}; it has {', '.join(study.arms)}.")
    backbone = Path(study.output_dir) / "reader"
    if not backbone.exists():
        bare_backbone(study.reader, backbone)
    for seed in arguments.seeds:
        for arm in arms:
            print(run_arm(study, arm, seed, backbone))


if __name__ == "__main__":
    main()
