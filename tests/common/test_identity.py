"""The fingerprint: the same for the same identity, wherever it was read."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.identity import fingerprint_of

_PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_IDENTITIES = st.dictionaries(st.text(), _PLAIN | st.lists(_PLAIN), max_size=5)


@given(identity=_IDENTITIES)
def test_a_file_gives_it_again(identity: dict[str, Any]) -> None:
    assert fingerprint_of(json.loads(json.dumps(identity))) == fingerprint_of(identity)


@given(one=_IDENTITIES, other=_IDENTITIES)
def test_it_tells_identities_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    equal = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint_of(one) == fingerprint_of(other)) == equal
