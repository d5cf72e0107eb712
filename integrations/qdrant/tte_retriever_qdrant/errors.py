"""What can go wrong with a store; each message says what was given and what to do."""

from __future__ import annotations

from tte_retriever.errors import InputError, TTEError


class StoreError(TTEError):
    """A store that cannot be opened, read or written."""


class StoreNotFound(StoreError, InputError):
    """There is no collection where one was expected."""

    exit_code = 2


class StoreLocked(StoreError):
    """The store is in use by another process, or opened twice in this one."""


class StoreUnavailable(StoreError):
    """A store that did not answer, or was too busy to; the same call may succeed later, and ingestion repeats it."""


class ModelMismatch(StoreError, InputError):
    """The store holds vectors of another model; vectors of two models cannot be compared."""

    exit_code = 2


class StoreUnauthorized(StoreError):
    """The server does not let us in, or not that far."""

    exit_code = 2
