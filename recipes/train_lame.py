"""Train an embedding model that reasons in K tokens and needs no written rationale, in two stages.

    python recipes/train_lame.py recipes/configs/train_lame/tiny.yaml --set output_dir=runs/lame
    accelerate launch --num_processes 4 recipes/train_lame.py recipes/configs/train_lame/qwen2_vl_2b.yaml

K reason tokens and one embed token are appended to every item by the chat template. In training, a light decoder that lives
in the loss has to reconstruct the text of the retrieval target from the last hidden states of the query's reason tokens
alone; at inference there is no decoder.

1. warm-up: the reconstruction, and the diversity of the reason states. The tokens become a bottleneck.
2. joint: the same, and a contrastive loss on the embed token, which reads query and reason tokens.

``tte_retriever.training.run.train`` is the whole run on one page; ``tte-retriever train`` does the same from the command
line. This file is what launchers of several processes start.
"""

from __future__ import annotations

from tte_retriever.training.launching import launch

if __name__ == "__main__":
    print(launch(__doc__))
