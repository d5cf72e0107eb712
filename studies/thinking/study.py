"""The study: its arms, which differ in one named setting each, and the command line that its scripts share."""

from __future__ import annotations

import argparse
import multiprocessing
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tte_retriever.errors import InputError
from tte_retriever.evaluation.mini_mmeb.tasks import SuiteSplit  # noqa: TC001  (read from the annotations)
from tte_retriever.training.config_files import read_values
from tte_retriever.training.parsing import from_mapping, set_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Task: TypeAlias = tuple[int, str]
"""Training seed and name of an arm: one run of the study."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        what: How it differs from its neighbour, in words.
        like: The neighbour: the arm whose config it changes; ``None`` for the arm at the root.
        set: Dotted key of the training config → value, on top of the neighbour's config.
        budgets: Think budgets at which it is also scored, besides its own.
    """

    what: str
    like: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[int, ...] = ()


@dataclass(frozen=True)
class StudyConfig:
    """The study.

    Attributes:
        output_dir: Folder of the checkpoints.
        results_file: JSONL file of all results; see :mod:`studies.thinking.records`.
        reader: A checkpoint of the small world, whose backbone every arm starts from.
        base: The training config that every arm is derived from.
        arms: Name → arm.
        condition: Name of the setting that these runs share and the main results do not have, such as ``held-out``;
            empty for the main results.
        queries: Number of queries for each task of mini-MMEB.
        split: Split of mini-MMEB; use ``validation`` to choose a setting.
        eval_seed: Seed of mini-MMEB.
        probe_queries: Number of queries that a probe draws for each family of the small world.
    """

    output_dir: str
    results_file: str
    reader: str
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    condition: str = ""
    queries: int = 500
    split: SuiteSplit = "iid"
    eval_seed: int = 0
    probe_queries: int = 300

    def arm(self, name: str) -> Arm:
        """The arm of this name.

        Raises:
            InputError: The study has no such arm.
        """
        if name not in self.arms:
            raise InputError(f"The study has no arm {name!r}; it has {', '.join(self.arms)}.")
        return from_mapping(Arm, self.arms[name], f"arms.{name}")

    def config(self, name: str) -> dict[str, Any]:
        """The training config of an arm: its neighbour's, with its own values set.

        Raises:
            InputError: The arm or one of its neighbours does not exist, or an arm is derived from itself.
        """
        line: dict[str, Arm] = {}
        like: str | None = name
        while like is not None:
            if like in line:
                raise InputError(
                    f"{' is like '.join([*line, like])}; let one of them be like another arm, or like none."
                )
            line[like] = self.arm(like)
            like = line[like].like
        values = deepcopy(self.base)
        for arm in reversed(line.values()):
            for path, value in arm.set.items():
                set_at(values, path, deepcopy(value))
        return values

    def folder(self, task: Task) -> Path:
        """The folder that a run is trained in."""
        seed, name = task
        return Path(self.output_dir) / f"{name}-{seed}"

    def label(self, task: Task) -> str:
        """What the scripts print for a run: condition, arm and training seed."""
        seed, name = task
        return f"{self.condition}/{name}-{seed}".removeprefix("/")


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of the options that all scripts of the study have: the config and ``--set``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    return parser


def read_study(arguments: argparse.Namespace) -> StudyConfig:
    """The config that the options name.

    Raises:
        InputError: The config has a mistake.
    """
    return from_mapping(StudyConfig, read_values(arguments.config, arguments.set))


def launch_study(
    description: str | None,
    work: Callable[[StudyConfig, Task], str],
    prepare: Callable[[StudyConfig], None] = lambda _study: None,
    ready: Callable[[StudyConfig, Task], bool] = lambda _study, _task: True,
) -> Iterator[str]:
    """Read the command line of a script that works on the runs of the study, and do the work for every arm and seed.

    Args:
        description: The text of ``--help``.
        work: Does the work for one run in a process of its own, and returns what to print.
        prepare: Runs once, before the work.
        ready: Whether a run can be worked on; the others are skipped.

    Yields:
        What ``work`` returned, run by run.

    Raises:
        InputError: The config has a mistake, or the study has no such arm; nothing is done then.
    """
    parser = study_parser(description)
    parser.add_argument("--arms", nargs="*", help="names of arms; default: all")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="training seeds; default: 0 1 2")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, with one core each")
    arguments = parser.parse_args()
    study = read_study(arguments)
    arms = arguments.arms or list(study.arms)
    for name in {*arms, *study.arms}:
        study.config(name)
    prepare(study)
    tasks = [task for task in product(arguments.seeds, arms) if ready(study, task)]
    # Each run has a new process, so that it starts with nothing in memory.
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, maxtasksperchild=1) as pool:
        yield from pool.imap(partial(work, study), tasks)
