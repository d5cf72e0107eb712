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

from tte_retriever.training.launching import launch

if __name__ == "__main__":
    print(launch(__doc__))
