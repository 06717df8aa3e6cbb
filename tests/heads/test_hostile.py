"""Heads of strangers: whatever their configuration says, they load or are refused in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads import ExitHeads
from dynamax_lm.heads.prompt_maps import PromptMapBank
from tests.heads.builders import heads_config, random_heads, random_maps

KINDS = [
    {"classifier": classifier, "translator": translator}
    for classifier in ("linear", "ffn", "mamba", "mamba_depth")
    for translator in ("identity", "low_rank", "affine")
]
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, float("inf"), float("nan"), -0.5),
    *("", "x", "\\ud800", "1" * 1000, [], [[]], {}, {"a": 1}, [1, 2], [None], 10**6),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = []
    for kind in KINDS:
        made.append(tmp_path_factory.mktemp("heads"))
        random_heads(heads_config(**kind)).save_pretrained(made[-1])
        text = (made[-1] / "config.json").read_text()
        (made[-1] / "whole.json").write_text(text)
    return made


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside."""
    if path:
        yield path
    if isinstance(data, dict):
        items: Any = data.items()
    else:
        items = enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@settings(max_examples=150)
@given(data=st.data())
def test_a_changed_configuration_loads_or_is_one_line(
    folders: list[Path], data: st.DataObject
) -> None:
    folder = data.draw(st.sampled_from(folders))
    config = json.loads((folder / "whole.json").read_text())
    changed = copy.deepcopy(config)
    path = data.draw(st.sampled_from(list(places(config))))
    inside = changed
    for step in path[:-1]:
        inside = inside[step]
    if data.draw(st.booleans()) and isinstance(inside, dict):
        del inside[path[-1]]
    else:
        inside[path[-1]] = data.draw(st.sampled_from(VALUES))
    (folder / "config.json").write_text(json.dumps(changed))
    refusal = ""
    try:
        heads = ExitHeads.from_pretrained(folder)
    except SettingError as error:
        refusal = str(error)
    assert "\n" not in refusal
    if refusal:
        return
    (folder / "config.json").write_text(json.dumps(config))
    whole = ExitHeads.from_pretrained(folder)
    same = heads.state_dict().keys() == whole.state_dict().keys()
    assert same, "what loads has the tensors that it was saved with"


@pytest.mark.parametrize("layers", [10_001, 2**31])
def test_maps_of_more_layers_than_any_decoder_are_refused_before_they_are_counted(
    layers: int, tmp_path: Path
) -> None:
    random_maps(width=8, n_layers=4, prompt_exit=1).save(tmp_path, "# Maps\n")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layers": layers}))
    with pytest.raises(SettingError, match=f"n_layers.*{layers}") as refused:
        PromptMapBank.load(tmp_path)
    assert str(tmp_path) in str(refused.value)
