"""How commands meet a model that cannot be had."""

from __future__ import annotations

import pytest

from tte_retriever.cli.loading import load_encoder
from tte_retriever.errors import InputError


def test_a_bundled_name_loads():
    assert load_encoder("tte-flash-tiny").thought.max_budget == 8


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "{tmp}", "{tmp}/missing"])
def test_what_is_no_model_is_named_in_one_sentence(name, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_encoder(name.format(tmp=tmp_path))
    assert "tte-flash-tiny" in str(caught.value)
    assert "\n" not in str(caught.value)
