"""Measure what a query costs each arm of a study, alone and in a batch of 32, all arms in the same rounds.

    python -m studies.thinking.cost studies/thinking/config.yaml --arms direct tte-flash plume explicit-cot

Needs the checkpoints that ``run.py`` wrote to ``output_dir``, and draws 32 queries from all tasks of mini-MMEB. Writes one
record of ``results_file``: for each arm and batch, the median CPU milliseconds for a query, preprocessing included, and the
ratio to the first arm with its smallest and largest value over the rounds. Everything runs on one thread.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import torch

from studies.thinking.records import Record, ResultsFile
from studies.thinking.study import read_study, study_parser
from tte_retriever import TTEEncoder
from tte_retriever.bench.measurement import interleaved, ratio
from tte_retriever.evaluation.mini_mmeb.encoding import model_input
from tte_retriever.evaluation.mini_mmeb.tasks import TASKS
from tte_retriever.training.config import RESULT

BATCHES = (1, 32)


def draw_queries(count: int, seed: int) -> list[dict[str, Any]]:
    """Queries of mini-MMEB, spread evenly over its tasks."""
    drawn = [[query.item for pool in task.pools("iid", seed, count) for query in pool.queries] for task in TASKS]
    return [model_input(drawn[index % len(TASKS)][index // len(TASKS)]) for index in range(count)]


def main() -> None:
    """Load the checkpoints, time them, write the record."""
    parser = study_parser(__doc__)
    parser.add_argument(
        "--arms", nargs="+", required=True, help="names of arms; the others are compared with the first"
    )
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = read_study(arguments)
    queries = draw_queries(max(BATCHES), study.eval_seed)
    sampled = {"video": {"do_sample_frames": False}}  # mini-MMEB has sampled the frames
    works = {}
    for name in arguments.arms:
        study.arm(name)  # raises for an unknown arm
        encoder = TTEEncoder(str(study.folder((arguments.seed, name)) / RESULT), device="cpu")
        for batch in BATCHES:
            encode = partial(encoder.encode_query, queries, batch_size=batch, processing_kwargs=sampled)
            works[f"{name}, {batch}"] = partial(encode, show_progress_bar=False)
    seconds = interleaved(works, arguments.rounds)
    record: Record = {
        "record": "cost",
        "condition": study.condition,
        "queries": len(queries),
        "rounds": arguments.rounds,
    }
    record["arms"] = {}
    for name in arguments.arms:
        record["arms"][name] = {}
        for batch in BATCHES:
            own, first = seconds[f"{name}, {batch}"], seconds[f"{arguments.arms[0]}, {batch}"]
            middle, low, high = ratio(own, first)
            cost = {"cpu_ms": 1000 * median(own) / len(queries), "ratio": middle, "low": low, "high": high}
            record["arms"][name][f"batch-{batch}"] = {key: round(value, 3) for key, value in cost.items()}
    ResultsFile(study.results_file).put(record)
    print(study.results_file)


if __name__ == "__main__":
    main()
