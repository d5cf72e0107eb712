"""The temperature of a contrastive loss: learnable, bounded, and settable between steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tte_retriever.errors import InputError

MAX_SCALE = 100.0  # as in CLIP: beyond it the temperature only sharpens noise


class TemperatureMixin:
    """For a loss whose parameter ``log_scale`` is the logarithm of the inverse temperature; () float32."""

    log_scale: nn.Parameter

    @property
    def learn_temperature(self) -> bool:
        """Whether the temperature is trained."""
        return self.log_scale.requires_grad

    @property
    def temperature(self) -> float:
        """The temperature as it is now; may be set between steps."""
        return 1 / self.log_scale.exp().clamp(max=MAX_SCALE).item()

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.log_scale.data.copy_(log_scale(value))

    @property
    def scale(self) -> float:
        """The inverse of the temperature; may be set between steps."""
        return 1 / self.temperature

    @scale.setter
    def scale(self, value: float) -> None:
        if not value > 0:
            raise InputError(f"scale is {value}; give a positive number of at most {MAX_SCALE:.0f}.")
        self.temperature = 1 / value


def log_scale(temperature: float) -> Tensor:
    """The logarithm of the inverse temperature; () float32.

    Raises:
        InputError: The temperature is too low, or not a number.
    """
    if not temperature >= 1 / MAX_SCALE:
        raise InputError(f"temperature is {temperature}; give {1 / MAX_SCALE} or more.")
    return torch.tensor(1 / temperature).log()
