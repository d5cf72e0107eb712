"""Models of every method, and the config of an arm of the study."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.thinking.study import StudyConfig
from tte_retriever import TTEEncoder
from tte_retriever.training.config_files import method_of, parse_config, read_values
from tte_retriever.training.parsing import from_mapping

STUDY = Path(__file__).parents[1] / "config.yaml"


@pytest.fixture(scope="session")
def bundled():
    return TTEEncoder("tte-flash-tiny", device="cpu").eval()


@pytest.fixture(scope="session")
def config_of():
    """``config_of(arm)`` is what an arm of the study was trained with."""
    study = from_mapping(StudyConfig, read_values(STUDY))

    def read(arm):
        values = study.config(arm)
        return parse_config(values, method_of(values).resolve("config"))

    return read
