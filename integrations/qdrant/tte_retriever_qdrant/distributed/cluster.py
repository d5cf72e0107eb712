"""The Ray cluster: connect to it, divide it among the stages, and raise its errors as ours."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from tte_retriever.errors import InputError, TTEError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Shares:
    """How many processes each stage has.

    Attributes:
        decoders: Processes that decode, with a core each.
        models: Copies of the model, with a GPU each, or a core where the cluster has no GPU.
        model_resources: What Ray reserves for a copy of the model.
    """

    decoders: int
    models: int
    model_resources: dict[str, Any]


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster; an existing connection of the caller is used, and stays open.

    Args:
        address: ``host:6379`` of a cluster's head, or ``auto`` for the one that this machine belongs to; ``None``
            starts a cluster of this machine alone, which ends with the run.

    Raises:
        TTEError: The cluster cannot be reached.

    Example:
        >>> from tte_retriever_qdrant.distributed import connected, describe_on_ray
        >>> with connected("auto"):  # doctest: +SKIP
        ...     description = describe_on_ray(load_encoder)
    """
    context = ray.data.DataContext.get_current()
    # The command has a bar of its own, and stdout is for JSON.
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it is raised too
    ours = not ray.is_initialized()
    if ours:
        _connect(address)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        if ours:
            ray.shutdown()


def _connect(address: str | None) -> None:
    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        message = f"the Ray cluster {address or 'of this machine'!r} cannot be used ({error}); check --address"
        raise TTEError(message) from error


def share_out(decoders: int | None, models: int | None) -> Shares:
    """Decide how many processes each stage has; Ray would wait forever for more than the cluster has.

    Args:
        decoders: Processes that decode; ``None`` is all cores that the models leave.
        models: Copies of the model; ``None`` is one per GPU, or one if there is none.

    Raises:
        InputError: The cluster has not enough cores or GPUs.
    """
    total = ray.cluster_resources()
    cores, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    models = models or gpus or 1
    left = cores if gpus else cores - models
    resources = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": 1}
    shares = Shares(left if decoders is None else decoders, models, resources)
    if shares.decoders < 1 or shares.decoders > left or (gpus and models > gpus):
        raise InputError(
            f"the Ray cluster has {cores} cores and {gpus} GPUs, which is too little for {models} copies of the model "
            f"(a GPU each, or a core where there is none) and {max(shares.decoders, 1)} processes that decode (a core "
            "each); ask for less, or add machines"
        )
    return shares


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise the error that a stage raised, without what Ray wraps around it."""
    try:
        yield
    except RayError as error:
        error.__traceback__ = None  # whose frames would keep the worker processes, and with them their cores
        if (ours := _cause(error)) is not None:
            ours.args = (str(ours).partition("\n")[0],)  # Ray adds advice of its own
            raise ours from error
        last = str(error).strip().splitlines()[-1]
        raise TTEError(f"the Ray job failed ({type(error).__name__}: {last}); run again to go on") from error


def _cause(error: Any) -> TTEError | None:
    """Our error that ended a task or the start of a worker process."""
    if isinstance(getattr(error, "cause", None), TTEError):
        return error.cause
    inner = error.args if isinstance(error, RayError) else ()
    return next((found for each in inner if (found := _cause(each)) is not None), None)
