"""Train several methods on the same data for the same steps, and score them on mini-MMEB.

    python recipes/build_tiny_model.py recipes/configs/build_tiny_model/tiny.yaml --set output_dir=runs/bundled-model \
        --until transcription
    python recipes/study_methods.py recipes/configs/study_methods/tiny.yaml --arms direct tte-flash --seeds 0 --jobs 2

Every arm starts from the same backbone, which has learnt to read pixels and nothing else, and differs from its neighbour
in the one thing that the config names. Run again, it goes on: what is scored already is skipped, what was stopped is
resumed. ``results_dir/<arm>-<seed>.json`` is what ``tte-retriever eval`` writes, with the steps and CPU seconds of the
training and the metric of every query beside it; ``results_dir/kinds.json`` says of which kind each query is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml

from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.evaluation import mini_mmeb
from tte_retriever.training.config import read_values
from tte_retriever.training.methods import read_config
from tte_retriever.training.parsing import from_mapping, set_at
from tte_retriever.training.run import train
from tte_retriever.training.tiny_backbone import bare_backbone


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        what: In which one thing it differs from its neighbour, in words.
        like: The neighbour, another arm; ``None`` for the one that all others come from.
        set: Dotted key of the training config → value, on top of the neighbour's config.
        budgets: Think budgets at which it is scored besides its own.
    """

    what: str
    like: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[int, ...] = ()


@dataclass(frozen=True)
class StudyConfig:
    """The study.

    Attributes:
        output_dir: Where checkpoints go.
        results_dir: Where scores go.
        reader: A checkpoint of the small world, whose backbone every arm starts from.
        base: The training config that all arms come from.
        arms: Name → arm.
        queries: Per task of mini-MMEB.
        split: Of mini-MMEB: ``validation`` as long as anything is chosen.
        eval_seed: Of mini-MMEB.
    """

    output_dir: str
    results_dir: str
    reader: str
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    queries: int = 500
    split: str = "iid"
    eval_seed: int = 0

    def arm(self, name: str) -> Arm:
        """The arm of this name.

        Raises:
            InputError: If there is none.
        """
        if name not in self.arms:
            raise InputError(f"The study has no arm {name!r}; it has {', '.join(self.arms)}.")
        return from_mapping(Arm, self.arms[name], f"arms.{name}")

    def config(self, name: str) -> dict[str, Any]:
        """The training config of an arm: its neighbour's, with its own values set."""
        arm = self.arm(name)
        values = deepcopy(self.base) if arm.like is None else self.config(arm.like)
        for path, value in arm.set.items():
            set_at(values, path, deepcopy(value))
        return values


def run_arm(study: StudyConfig, backbone: Path, task: tuple[int, str]) -> list[Path]:
    """Train one arm with one seed and score it; what is there already is not done again."""
    torch.set_num_threads(1)
    seed, name = task
    arm, out, scores = study.arm(name), Path(study.output_dir), Path(study.results_dir)
    results: dict[int | None, Path] = {None: scores / f"{name}-{seed}.json"}
    results |= {budget: scores / f"{name}@{budget}-{seed}.json" for budget in arm.budgets}
    if all(file.exists() for file in results.values()):
        return list(results.values())
    values, written = study.config(name), out / f"{name}-{seed}.yaml"
    values |= {"output_dir": str(out / f"{name}-{seed}"), "seed": seed}
    values["model"]["backbone"] = str(backbone)
    written.write_text(yaml.safe_dump(values, sort_keys=False))
    config = read_config(written)
    started = time.process_time()
    model = TTEEncoder(str(train(config)), device="cpu")
    known = {
        "training_seed": seed,
        "steps": {stage.name: stage.steps for stage in config.stages},
        "training_cpu_s": round(time.process_time() - started),
    }
    for budget, file in results.items():
        started = time.process_time()
        report = mini_mmeb.evaluate(
            model,
            name=file.stem,
            split=study.split,  # type: ignore[arg-type]  # any other word is refused with a sentence
            seed=study.eval_seed,
            queries=study.queries,
            think_budget=budget,
        )
        per_query = {task.name: [round(float(value), 4) for value in task.per_query] for task in report.tasks}
        spent = {"evaluation_cpu_s": round(time.process_time() - started)}
        write_json(file, report.to_dict() | known | spent | {"per_query": per_query})
        write_json(scores / "kinds.json", {task.name: task.kinds for task in report.tasks})
    return list(results.values())


def write_json(file: Path, record: dict[str, Any]) -> None:
    """Write an object with a line for each key; the file is there as a whole or not at all."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items()]
    partial_file = file.with_suffix(f".{multiprocessing.current_process().pid}")
    partial_file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    partial_file.replace(file)


def main() -> None:
    """Read the config and run the arms that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--arms", nargs="*", help="names of arms; all if not given")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="arms that are trained at a time, with a core each")
    arguments = parser.parse_args()
    study = from_mapping(StudyConfig, read_values(arguments.config, arguments.set))
    arms = arguments.arms or list(study.arms)
    for name in study.arms:
        study.config(name)  # a mistake in the config shows before anything is trained
    for name in arms:
        study.arm(name)
    backbone = Path(study.output_dir) / "reader"
    Path(study.results_dir).mkdir(parents=True, exist_ok=True)
    if not backbone.exists():
        bare_backbone(study.reader, backbone)
    # A process for each: what one leaves in memory is nothing to the next.
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, maxtasksperchild=1) as pool:
        for files in pool.imap(partial(run_arm, study, backbone), product(arguments.seeds, arms)):
            print(*files, flush=True)


if __name__ == "__main__":
    main()
