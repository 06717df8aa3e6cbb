"""Certificates: strict JSON both ways, no contradiction, and where they speak."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from certify.certificates import make_certificate, make_setting, make_setup

from dynamax_lm.certificate import Certificate, CertificateError, Setting, TaskSetup, why_not


def test_json_and_back() -> None:
    certificate = make_certificate()
    assert Certificate.loads(certificate.dumps()) == certificate
    assert Certificate.from_json(json.loads(json.dumps(certificate.to_json()))) == certificate
    nothing = make_certificate(threshold=None, grid=certificate.grid[-1:])
    assert Certificate.loads(nothing.dumps()) == nothing
    assert nothing.certified_thresholds == ()


def _objects(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of every record in a certificate's JSON; what a task is free to hold is none."""
    if isinstance(data, dict):
        if path[-1:] != ("generation_kwargs",):
            yield path
            for name, value in data.items():
                yield from _objects(value, (*path, name))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _objects(value, (*path, number))


def _at(data: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        data = data[step]
    return data


def test_every_field_must_be_there_and_no_other() -> None:
    whole = make_certificate().to_json()
    paths = list(_objects(whole))
    assert len(paths) > 8
    for path in paths:
        for name in _at(whole, path):
            cut = copy.deepcopy(whole)
            del _at(cut, path)[name]
            with pytest.raises(CertificateError, match=name):
                Certificate.from_json(cut)
        longer = copy.deepcopy(whole)
        _at(longer, path)["stranger"] = 1
        with pytest.raises(CertificateError, match="stranger"):
            Certificate.from_json(longer)


@pytest.mark.parametrize("wrong", [None, "x", True, [], {}, float("nan"), float("inf"), -2, 1.5])
@pytest.mark.parametrize("name", ["risk", "delta", "seed", "grid", "tasks", "setting", "metric"])
def test_values_of_another_kind_are_refused(name: str, wrong: Any) -> None:
    if name == "metric" and wrong == "x":
        return
    data = make_certificate().to_json() | {name: wrong}
    with pytest.raises(CertificateError) as caught:
        Certificate.from_json(data)
    assert "\n" not in str(caught.value)


def test_contradictions_are_refused() -> None:
    good = make_certificate()
    for threshold in (0.8, 0.95, None, 0.91):  # 0.8 is the first that failed
        with pytest.raises(CertificateError, match="threshold"):
            replace(good, threshold=threshold)
    with pytest.raises(CertificateError, match="fall"):
        replace(good, grid=good.grid[::-1])
    with pytest.raises(CertificateError, match="after a threshold that failed"):
        replace(good, delta=0.01, threshold=0.95)
    task = replace(good.tasks[0], setup=make_setup(name="toy_other"))
    with pytest.raises(CertificateError, match="toy_other"):
        replace(good, tasks=(task,))
    with pytest.raises(CertificateError, match="schema"):
        Certificate.from_json(good.to_json() | {"schema": 2, "news": 1})
    for text in ("", "{", "[]", "NaN"):
        with pytest.raises(CertificateError):
            Certificate.loads(text)


def test_a_long_list_of_thresholds_is_told_by_its_ends() -> None:
    few = make_certificate()
    step = few.grid[0]
    grid = tuple(replace(step, threshold=0.99 - 0.001 * number) for number in range(30))
    many = make_certificate(grid=grid, threshold=grid[-1].threshold)
    here: dict[str, Any] = {"task": make_setup(), "setting": make_setting(), "threshold": 1.0}
    assert str(why_not(few, **here)).endswith("certified are 0.99, 0.95, 0.9")
    assert str(why_not(many, **here)).endswith("certified are 30 from 0.961 to 0.99")


def test_it_speaks_for_the_run_it_was_made_with_and_no_other() -> None:
    certificate = Certificate.loads(make_certificate().dumps())
    here: dict[str, Any] = {"task": make_setup(), "setting": make_setting(), "threshold": 0.9}
    assert why_not(certificate, **here) is None
    assert why_not(certificate, **here | {"threshold": 0.95}) is None, "safer ones passed too"
    for threshold in (0.8, 0.92, 1.0, 0.0):
        assert "threshold" in str(why_not(certificate, **here | {"threshold": threshold}))

    other = {
        "exit_layers": (4, 9),
        "heads": None,
    }
    for field in fields(Setting):
        setting = make_setting(**{field.name: other.get(field.name, "other")})
        reason = why_not(certificate, **here | {"setting": setting})
        assert field.name in str(reason)
        assert "\n" not in str(reason)
    changes: dict[str, Any] = {
        "version": "2.0",
        "output_type": "loglikelihood",
        "num_fewshot": 0,
        "generation_kwargs": {"until": ["\n"], "do_sample": True},
        "repeats": 3,
        "apply_chat_template": True,
        "system_instruction": "Answer.",
    }
    assert set(changes) == {f.name for f in fields(TaskSetup)} - {"name"}
    for name, value in changes.items():
        reason = why_not(certificate, **here | {"task": make_setup(**{name: value})})
        assert name in str(reason)
    elsewhere = why_not(certificate, **here | {"task": make_setup(name="coqa")})
    assert "toy_gen" in str(elsewhere)
    nothing = replace(certificate, threshold=None, grid=certificate.grid[-1:])
    assert "no threshold was certified" in str(why_not(nothing, **here))
