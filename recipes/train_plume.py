"""Train a PLUME: latent steps in place of a written rationale, by a curriculum.

    python recipes/train_plume.py recipes/configs/train_plume/tiny.yaml --set output_dir=runs/tiny
    accelerate launch --num_processes 4 recipes/train_plume.py recipes/configs/train_plume/qwen2_vl_2b.yaml

The model writes a rationale and an answer, then embeds. As training goes on, more and more of the rationale, from its
beginning, is replaced by latent steps through a routed adapter, and at the end the answer goes, too: what remains is what
inference does. Contrastive losses stand after the thought and in front of it.

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
    print(train(read_config(arguments.config, arguments.set)))


if __name__ == "__main__":
    main()
