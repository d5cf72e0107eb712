"""Train the control: the same data, loss and schedule, with an embed token and no thought.

    python recipes/train_direct.py recipes/configs/train_direct/tiny.yaml --set output_dir=runs/tiny-direct

One contrastive stage. Whatever a think-token model is better at has to show against this, at equal steps and data.
``tte_retriever.training.run.train`` is the whole run on one page; ``tte-retriever train`` does the same from the command
line. This file is what launchers of several processes start.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tte_retriever.training.methods import read_config
from tte_retriever.training.run import train


def main() -> None:
    """Read the config and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    arguments = parser.parse_args()
    print(train(read_config(arguments.config, [*arguments.set, "model.method=direct"])))


if __name__ == "__main__":
    main()
