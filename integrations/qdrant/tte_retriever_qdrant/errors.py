"""Errors of stores; each message says what was given and what to do."""

from __future__ import annotations

from tte_retriever.errors import InputError, TTEError


class StoreError(TTEError):
    """A store that cannot be opened, read or written."""


class StoreNotFound(StoreError, InputError):
    """A collection that does not exist, or holds nothing yet."""

    exit_code = 2


class StoreLocked(StoreError):
    """A store that another process has open, or that is opened twice in this one."""


class StoreUnavailable(StoreError):
    """A server that did not answer or was too busy; the same call may succeed later, and ingestion repeats it."""


class ModelMismatch(StoreError, InputError):
    """A store that holds vectors of another model; vectors of two models cannot be compared."""

    exit_code = 2


class StoreUnauthorized(StoreError):
    """A server that refuses the key, or refuses the operation to it."""

    exit_code = 2
