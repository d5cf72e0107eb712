"""Train the control: the same data, loss and schedule, with an embed token and no thought.

    python recipes/train_direct.py recipes/configs/train_direct/tiny.yaml --set output_dir=runs/tiny-direct

One contrastive stage. Whatever a think-token model is better at has to show against this, at equal steps and data.
``tte_retriever.training.run.train`` is the whole run on one page; ``tte-retriever train`` does the same from the command
line. This file is what launchers of several processes start.
"""

from __future__ import annotations

from tte_retriever.training.launching import launch

if __name__ == "__main__":
    print(launch(__doc__, "model.method=direct"))
