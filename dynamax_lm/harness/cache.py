"""Refuses a response cache that the live model did not fill, before anything is computed.

lm-eval's cache key has the request only, neither the model nor its settings, so that lm-eval would
use a cache of other settings silently. This module checks the hits first, and stores answers under
keys that no other model's requests have, so that ``hf`` is never given answers of early exits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.summary import GENERATION, ROLLING, SCORING
from dynamax_lm.harness.responses import record_of
from dynamax_lm.harness.run_registry import LiveModel, check_cached, outdated, recordless, run_of

_PREFIX = "dynamax_lm "
"""Of the keys of this package's answers; lm-eval's own are hexadecimal digits alone."""


class OwnKeys:
    """A response cache as lm-eval uses it, under keys of this package.

    Args:
        shared: the database, which may also hold answers of other models.
    """

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    def __contains__(self, key: str) -> bool:
        return _PREFIX + key in self.shared

    def __getitem__(self, key: str) -> Any:
        return self.shared[_PREFIX + key]

    def __setitem__(self, key: str, response: Any) -> None:
        self.shared[_PREFIX + key] = response

    def __getattr__(self, name: str) -> Any:
        """``commit`` and the like."""
        return getattr(self.shared, name)


def around_getattr(original: Callable[[Any, str], Any], caching: Any, name: str) -> Any:
    """Wraps ``CachingLM.__getattr__``: request methods of announced models check their hits."""
    found = original(caching, name)
    if name not in (GENERATION, SCORING, ROLLING):
        return found
    run = run_of(caching.lm)
    if run is None:
        return found
    model = run.live
    if not isinstance(caching.dbdict, OwnKeys):
        caching.dbdict = OwnKeys(caching.dbdict)
        caching.lm.set_cache_hook(caching.get_cache_hook())

    def checked(requests: list[Any]) -> Any:
        _check_hits(caching.dbdict, name, requests, model)
        return found(requests)

    return checked


def _check_hits(db: OwnKeys, kind: str, requests: Iterable[Any], live: LiveModel) -> None:
    from lm_eval.api.model import hash_args

    for request in requests:
        if kind == GENERATION and _is_sampled(request.args[1]):
            continue  # lm-eval neither stores nor reads sampled answers
        key = hash_args(kind, request.args)
        if key in db.shared:  # of another model, or of a version that used lm-eval's keys
            raise recordless() if record_of(_read(db.shared, key)) is None else outdated()
        if key in db:
            check_cached(_read(db, key), live)


def _read(db: Any, key: str) -> Any:
    """A cached response.

    Raises:
        SettingError: it was pickled by a version whose records lay in other modules.
    """
    try:
        return db[key]
    except (ImportError, AttributeError) as error:
        raise outdated() from error


def _is_sampled(gen_kwargs: Mapping[str, Any]) -> bool:
    """Whether an answer is sampled.

    Raises:
        SettingError: it is, and lm-eval's cache, which checks ``do_sample`` alone, would store it.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    if gen_kwargs.get("do_sample", False):
        return True
    if normalize_gen_kwargs(dict(gen_kwargs)).get("do_sample", False):
        raise SettingError(
            f"use_cache: temperature={gen_kwargs.get('temperature')} samples answers, and sampled "
            f"answers are not to be kept: write do_sample=true beside it, or leave out use_cache"
        )
    return False
