"""Measure what a query costs each arm of a study, alone and in a batch of 32, all arms in the same rounds.

    python -m studies.thinking.cost studies/thinking/config.yaml --arms direct tte-flash plume explicit-cot

Takes the checkpoints that run.py has left in ``output_dir``, and 32 queries of mini-MMEB of all its tasks. Writes
``results_dir/cost.json``: for each arm and batch the median CPU milliseconds a query, preprocessing included, and their
ratio to those of the first arm with the least and the largest of the rounds. One thread.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from studies.thinking.study import StudyConfig, write_json
from tte_retriever import TTEEncoder
from tte_retriever.bench.measurement import interleaved, ratio
from tte_retriever.evaluation.mini_mmeb.encoding import model_input
from tte_retriever.evaluation.mini_mmeb.tasks import TASKS
from tte_retriever.training.config import RESULT
from tte_retriever.training.config_files import read_values
from tte_retriever.training.parsing import from_mapping

BATCHES = (1, 32)


def draw_queries(count: int, seed: int) -> list[dict[str, Any]]:
    """As many queries of each task of mini-MMEB as of any other, or one more."""
    drawn = [[query.item for pool in task.pools("iid", seed, count) for query in pool.queries] for task in TASKS]
    return [model_input(drawn[index % len(TASKS)][index // len(TASKS)]) for index in range(count)]


def main() -> None:
    """Load the checkpoints, take the times, write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument(
        "--arms", nargs="+", required=True, help="names of arms; the first is what others are compared with"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = from_mapping(StudyConfig, read_values(arguments.config, arguments.set))
    queries = draw_queries(max(BATCHES), study.eval_seed)
    sampled = {"video": {"do_sample_frames": False}}  # the frames were
    works = {}
    for name in arguments.arms:
        study.arm(name)  # or a sentence that names those there are
        encoder = TTEEncoder(str(study.folder((arguments.seed, name)) / RESULT), device="cpu")
        for batch in BATCHES:
            encode = partial(encoder.encode_query, queries, batch_size=batch, processing_kwargs=sampled)
            works[f"{name}, {batch}"] = partial(encode, show_progress_bar=False)
    seconds = interleaved(works, arguments.rounds)
    record: dict[str, Any] = {"queries": len(queries), "rounds": arguments.rounds, "arms": {}}
    for name in arguments.arms:
        record["arms"][name] = {}
        for batch in BATCHES:
            own, first = seconds[f"{name}, {batch}"], seconds[f"{arguments.arms[0]}, {batch}"]
            middle, low, high = ratio(own, first)
            cost = {"cpu_ms": 1000 * median(own) / len(queries), "ratio": middle, "low": low, "high": high}
            record["arms"][name][f"batch-{batch}"] = {key: round(value, 3) for key, value in cost.items()}
    file = Path(study.results_dir) / "cost.json"
    write_json(file, record)
    print(file)


if __name__ == "__main__":
    main()
