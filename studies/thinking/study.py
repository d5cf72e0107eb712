"""A study: arms that differ in named things, each trained with several seeds, and one record for each of these runs."""

from __future__ import annotations

import argparse
import json
import multiprocessing
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tte_retriever.errors import InputError
from tte_retriever.training.config_files import read_values
from tte_retriever.training.parsing import from_mapping, set_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Task: TypeAlias = tuple[int, str]
"""Seed and name of an arm: one run of the study."""


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
        probe_queries: Per family of the small world, for the probes.
    """

    output_dir: str
    results_dir: str
    reader: str
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    queries: int = 500
    split: str = "iid"
    eval_seed: int = 0
    probe_queries: int = 300

    def arm(self, name: str) -> Arm:
        """The arm of this name.

        Raises:
            InputError: If there is none.
        """
        if name not in self.arms:
            raise InputError(f"The study has no arm {name!r}; it has {', '.join(self.arms)}.")
        return from_mapping(Arm, self.arms[name], f"arms.{name}")

    def config(self, name: str) -> dict[str, Any]:
        """The training config of an arm: its neighbour's, with its own values set.

        Raises:
            InputError: If an arm of that name, or a neighbour, is not there, or if an arm comes from itself.
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
        """Where a run is trained."""
        seed, name = task
        return Path(self.output_dir) / f"{name}-{seed}"


def launch_study(
    description: str | None,
    work: Callable[[StudyConfig, Task], list[Path]],
    prepare: Callable[[StudyConfig], None] = lambda _study: None,
    ready: Callable[[StudyConfig, Task], bool] = lambda _study, _task: True,
) -> Iterator[list[Path]]:
    """Read the command line of a recipe that goes through a study, and do the work for every arm and seed.

    Args:
        description: What ``--help`` says: the recipe's docstring.
        work: What is done for one run, in a process of its own; it gives the files that hold the results.
        prepare: What is done once before that.
        ready: Whether a run can be worked on; others are left out.

    Returns:
        The files of one run after the other, as they are done.

    Raises:
        InputError: A mistake in the config, or an arm that it does not have; nothing is done then.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--arms", nargs="*", help="names of arms; all if not given")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, with a core each")
    arguments = parser.parse_args()
    study = from_mapping(StudyConfig, read_values(arguments.config, arguments.set))
    arms = arguments.arms or list(study.arms)
    for name in {*arms, *study.arms}:
        study.config(name)
    prepare(study)
    tasks = [task for task in product(arguments.seeds, arms) if ready(study, task)]
    # A process for each: what one leaves in memory is nothing to the next.
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, maxtasksperchild=1) as pool:
        yield from pool.imap(partial(work, study), tasks)


def write_json(file: Path, record: dict[str, Any]) -> None:
    """Write an object with a line for each key; the file is there as a whole or not at all."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items()]
    partial_file = file.with_suffix(f".{multiprocessing.current_process().pid}")
    partial_file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    partial_file.replace(file)
