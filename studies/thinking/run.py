"""Train the arms of the study on the same data for the same steps, and score them on mini-MMEB.

    python -m models.tte_flash_tiny.build models/tte_flash_tiny/config.yaml --set output_dir=runs/bundled-model \
        --until transcription
    python -m studies.thinking.run studies/thinking/config.yaml --arms direct tte-flash --seeds 0 --jobs 2

Every arm starts from the same backbone, which was trained to describe what it sees and never to embed. An arm differs from
its neighbour in the one setting that the config names. Runs that are scored are skipped and runs that were stopped are
resumed. A run that was scored with other settings is refused. Each run is one record of ``results_file``: the scores of
``tte-retriever eval``, the metric of every query, the steps of the training and its CPU seconds (``null`` if the training
was resumed).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from studies.thinking.records import ResultsFile
from studies.thinking.study import StudyConfig, Task, launch_study
from tte_retriever import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.evaluation import mini_mmeb
from tte_retriever.small_world.backbone import bare_backbone
from tte_retriever.training.config_files import read_config
from tte_retriever.training.run import train

if TYPE_CHECKING:
    from studies.thinking.records import Record
    from tte_retriever.evaluation.mini_mmeb.report import Report
    from tte_retriever.training.config import TrainConfig

BACKBONE = "reader"


def prepare(study: StudyConfig) -> None:
    """Write the backbone that every arm starts from."""
    backbone = Path(study.output_dir) / BACKBONE
    if not backbone.exists():
        bare_backbone(study.reader, backbone)


def is_scored(study: StudyConfig, wanted: Record) -> bool:
    """Whether the results have this run.

    Args:
        study: The config.
        wanted: What is known of the record before the run is scored.

    Raises:
        InputError: They have it with other settings.
    """
    identity = {key: wanted[key] for key in ("condition", "arm", "training_seed")}
    made = ResultsFile(study.results_file).find("run", **identity)
    if made is None:
        return False
    differ = [f"{key} {made[key]} and not {value}" for key, value in wanted.items() if made[key] != value]
    if differ:
        named = study.label((wanted["training_seed"], wanted["arm"]))
        raise InputError(
            f"{named} in {study.results_file!r} has {', '.join(differ)}; give another condition or results_file, or "
            "delete the record."
        )
    return True


def training_config(study: StudyConfig, task: Task) -> TrainConfig:
    """Write the training config of a run beside its folder, and read it."""
    seed, name = task
    folder, values = study.folder(task), study.config(name)
    values |= {"output_dir": str(folder), "seed": seed}
    values["model"]["backbone"] = str(Path(study.output_dir) / BACKBONE)
    written = folder.with_name(f"{folder.name}.yaml")
    written.write_text(yaml.safe_dump(values, sort_keys=False))
    return read_config(written)


def scores_of(report: Report) -> tuple[Record, Record]:
    """The parts of a run's record that the report holds, and the record of its tasks."""
    run: Record = {
        "fingerprint": report.fingerprint,
        "think_budget": report.think_budget,
        "mean": round(report.mean, 4),
    }
    run["scores"] = {task.name: [round(value, 4) for value in (task.score, *task.ci95)] for task in report.tasks}
    run["per_query"] = {task.name: task.per_query for task in report.tasks}
    tasks = []
    for task in report.tasks:
        described: Record = {key: getattr(task, key) for key in ("name", "modality", "family", "metric")}
        described |= {"chance": round(task.chance, 6), "prior_only": round(task.prior_only, 6)}
        tasks.append(described | {"kinds": list(task.kinds)})
    setting = {"split": report.split, "seed": report.seed, "queries": report.tasks[0].n}
    return run, {"record": "tasks", **setting, "tasks": tasks}


def run_arm(study: StudyConfig, task: Task) -> str:
    """Train one arm with one seed and score it, unless the results have it already."""
    torch.set_num_threads(1)
    seed, name = task
    config = training_config(study, task)
    known = {"condition": study.condition, "training_seed": seed}
    known |= {"split": study.split, "seed": study.eval_seed, "queries": study.queries}
    known["steps"] = {stage.name: stage.steps for stage in config.stages}
    budgets = {None: name} | {budget: f"{name}@{budget}" for budget in study.arm(name).budgets}
    missing = {budget: arm for budget, arm in budgets.items() if not is_scored(study, known | {"arm": arm})}
    if not missing:
        return study.label(task)
    resumed, started = study.folder(task).exists(), time.process_time()
    model = TTEEncoder(str(train(config)), device="cpu")
    spent = None if resumed else round(time.process_time() - started)
    for budget, arm in missing.items():
        started = time.process_time()
        report = mini_mmeb.evaluate(
            model, split=study.split, seed=study.eval_seed, queries=study.queries, think_budget=budget
        )
        run, tasks = scores_of(report)
        seconds = {"training_cpu_s": spent, "evaluation_cpu_s": round(time.process_time() - started)}
        record = {"record": "run", "condition": study.condition, "arm": arm, **known, **seconds, **run}
        ResultsFile(study.results_file).put(record, tasks)
    return study.label(task)


if __name__ == "__main__":
    for label in launch_study(__doc__, run_arm, prepare):
        print(label, flush=True)
