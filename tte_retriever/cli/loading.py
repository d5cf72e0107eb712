"""How commands load a model: quietly, and with a sentence where it cannot be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.errors import InputError, TTEError

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder


def load_encoder(name: str) -> TTEEncoder:
    """Load a bundled model, a folder or a hub id.

    Raises:
        InputError: If there is no such model, or it cannot be reached.
    """
    from transformers.utils import logging as transformers_logging

    from tte_retriever.checkpoint import bundled_models
    from tte_retriever.encoder import TTEEncoder

    transformers_logging.disable_progress_bar()
    try:
        return TTEEncoder(name)
    except TTEError:
        raise
    except (OSError, ValueError) as error:  # what transformers and the hub client raise for what is no model
        raise InputError(
            f"The model {name!r} cannot be loaded ({str(error).splitlines()[0]}); give a bundled name "
            f"({', '.join(bundled_models())}), a folder with a saved model, or the id of one on the hub."
        ) from error
