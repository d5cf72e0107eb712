"""Train an embedding model that writes a rationale before it embeds, in two stages.

    python recipes/train_explicit_cot.py recipes/configs/train_explicit_cot/tiny.yaml --set output_dir=runs/cot
    accelerate launch --num_processes 4 recipes/train_explicit_cot.py my.yaml

The assistant's turn holds the written rationale and, after it, the embed token, as the model is to write them at inference:
one token after the other, hundreds of steps for a long rationale. It is what every latent method wants to replace.

1. warm-up: the rationale, and nothing else. The model learns to write, and where to stop.
2. joint: the rationale, a contrastive loss on the embed token after it, and one on the token in front of it, which embeds the
   same item without a rationale.

``tte_retriever.training.run.train`` is the whole run on one page; ``tte-retriever train`` does the same from the command
line. This file is what launchers of several processes start.
"""

from __future__ import annotations

from tte_retriever.training.launching import launch

if __name__ == "__main__":
    print(launch(__doc__))
