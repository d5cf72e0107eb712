"""What a loss needs to know and to average when several processes train together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from sentence_transformers.util import all_gather

if TYPE_CHECKING:
    from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a scalar over processes, or the scalar itself if there is one process."""
    return all_gather(value[None]).mean(0) if dist.is_initialized() else value
