"""Train a think-token embedding model in two stages.

    python recipes/train_tte_flash.py recipes/configs/train_tte_flash/tiny.yaml --set output_dir=runs/tiny
    accelerate launch --num_processes 4 recipes/train_tte_flash.py recipes/configs/train_tte_flash/qwen3_vl_2b.yaml

K think tokens and one embed token are appended to every item by the chat template. In training, the same model has to
decode a written rationale from the last hidden states of the think tokens alone; at inference nothing is decoded.

1. warm-up: the rationale, and nothing else. The think tokens learn to hold the thought.
2. joint: the rationale, and a contrastive loss on the embed token, which reads query and thought.

``tte_retriever.training.run.train`` is the whole run on one page; ``tte-retriever train`` does the same from the command
line. This file is what launchers of several processes start.
"""

from __future__ import annotations

from tte_retriever.training.launching import launch

if __name__ == "__main__":
    print(launch(__doc__))
