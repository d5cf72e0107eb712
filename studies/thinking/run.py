"""Train several methods on the same data for the same steps, and score them on mini-MMEB.

    python -m models.tte_flash_tiny.build models/tte_flash_tiny/config.yaml --set output_dir=runs/bundled-model \
        --until transcription
    python -m studies.thinking.run studies/thinking/config.yaml --arms direct tte-flash --seeds 0 --jobs 2

Every arm starts from the same backbone, which has learnt to say what it sees and has never embedded, and differs from its
neighbour in the one thing that the config names. Run again, it goes on: what is scored already is skipped, what was stopped
is resumed, and results of other settings are refused. ``results_dir/<arm>-<seed>.json`` is what ``tte-retriever eval``
writes, with the metric of every query beside it, the steps of the training and its CPU seconds (``null`` if it was
resumed); ``results_dir/kinds.json`` says of which kind each query is.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from studies.thinking.study import StudyConfig, Task, launch_study, write_json
from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.evaluation import mini_mmeb
from tte_retriever.small_world.backbone import bare_backbone
from tte_retriever.training.config_files import read_config
from tte_retriever.training.run import train

BACKBONE = "reader"


def prepare(study: StudyConfig) -> None:
    """Make the folder of the results, and the backbone that every arm starts from."""
    backbone = Path(study.output_dir) / BACKBONE
    Path(study.results_dir).mkdir(parents=True, exist_ok=True)
    if not backbone.exists():
        bare_backbone(study.reader, backbone)


def is_scored(study: StudyConfig, file: Path, known: dict[str, Any]) -> bool:
    """Whether a result is there.

    Raises:
        InputError: If it is one of another study.
    """
    if not file.exists():
        return False
    made = json.loads(file.read_text())
    asked = {"split": study.split, "seed": study.eval_seed, **known}
    differ = [f"{key} {made[key]} and not {value}" for key, value in asked.items() if made[key] != value]
    count = made["tasks"][0]["n"]
    differ += [f"{count} queries a task and not {study.queries}"] * (count != study.queries)
    if differ:
        raise InputError(f"{str(file)!r} has {', '.join(differ)}; give another results_dir, or move it away.")
    return True


def run_arm(study: StudyConfig, task: Task) -> list[Path]:
    """Train one arm with one seed and score it; what is there already is not done again."""
    torch.set_num_threads(1)
    seed, name = task
    arm, folder, scores = study.arm(name), study.folder(task), Path(study.results_dir)
    results: dict[int | None, Path] = {None: scores / f"{name}-{seed}.json"}
    results |= {budget: scores / f"{name}@{budget}-{seed}.json" for budget in arm.budgets}
    values, written = study.config(name), folder.with_name(f"{folder.name}.yaml")
    values |= {"output_dir": str(folder), "seed": seed}
    values["model"]["backbone"] = str(Path(study.output_dir) / BACKBONE)
    written.write_text(yaml.safe_dump(values, sort_keys=False))
    config = read_config(written)
    known: dict[str, Any] = {"training_seed": seed, "steps": {stage.name: stage.steps for stage in config.stages}}
    missing = {budget: file for budget, file in results.items() if not is_scored(study, file, known)}
    if not missing:
        return list(results.values())
    begun, started = folder.exists(), time.process_time()
    model = TTEEncoder(str(train(config)), device="cpu")
    known["training_cpu_s"] = None if begun else round(time.process_time() - started)
    for budget, file in missing.items():
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


if __name__ == "__main__":
    for files in launch_study(__doc__, run_arm, prepare):
        print(*files, flush=True)
