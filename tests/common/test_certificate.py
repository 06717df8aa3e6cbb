"""Certificates: strict JSON both ways, no contradiction, and where they speak."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from certify.certificates import (
    DOCUMENTS,
    make_certificate,
    make_setting,
    make_setup,
    make_task,
)
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.certificate import (
    LEAST_UNITS,
    SCHEMA,
    Certificate,
    CertificateError,
    Setting,
    TaskSetup,
    pack,
    unit_means,
    why_not,
)
from dynamax_lm.common.certificate.document import _seal
from dynamax_lm.common.certificate.outcomes import unpack


def test_json_and_back() -> None:
    certificate = make_certificate()
    assert certificate.threshold == 0.9
    assert Certificate.loads(certificate.dumps()) == certificate
    assert Certificate.from_json(json.loads(json.dumps(certificate.to_json()))) == certificate
    nothing = make_certificate({0.5: 100})
    assert Certificate.loads(nothing.dumps()) == nothing
    assert nothing.threshold is None
    assert nothing.certified_thresholds == ()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_packed_numbers_come_back(numbers: list[int]) -> None:
    told = pack(numbers)
    assert unpack("losses", told, len(numbers)).tolist() == numbers
    for count in (len(numbers) - 1, len(numbers) + 1, 10**30):
        with pytest.raises(CertificateError):
            unpack("losses", told, count)


@pytest.mark.parametrize("text", ["", "u1", "u1:", "u9:AAAA", "u1:!!", "u1:AAAA", 7, None])
def test_what_is_not_packed_is_refused(text: object) -> None:
    with pytest.raises(CertificateError, match="losses"):
        unpack("losses", text, 3)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=40))
def test_a_units_loss_is_the_mean_of_its_documents(pairs: list[tuple[int, float]]) -> None:
    numbers = sorted({unit for unit, _ in pairs})
    units = np.array([numbers.index(unit) for unit, _ in pairs])
    found = unit_means(np.array([loss for _, loss in pairs]), units)
    for place, unit in enumerate(numbers):
        assert found[place] == pytest.approx(np.mean([x for one, x in pairs if one == unit]))


FREE = (("generation_kwargs",), ("rendering",), ("metrics",), ("arguments",), ("checkpoint",))
"""Objects that a task or a model is free to fill."""


def _objects(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of every record in a certificate's JSON; what a task is free to hold is none."""
    if isinstance(data, dict):
        if path[-1:] not in FREE:
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


def _resealed(data: dict[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in data.items() if name != "seal"}
    return {**fields, "seal": _seal(fields)}


def test_contradictions_are_refused() -> None:
    good = make_certificate()
    for threshold in (0.8, 0.95, None, 0.91):  # 0.8 is the first that failed
        with pytest.raises(CertificateError, match="threshold"):
            replace(good, threshold=threshold)
    with pytest.raises(CertificateError, match="fall"):
        replace(good, grid=good.grid[::-1])
    with pytest.raises(CertificateError, match="after a threshold that failed"):
        replace(good, delta=1e-8, threshold=0.99)
    task = replace(good.tasks[0], setup=make_setup(name="toy_other"))
    with pytest.raises(CertificateError, match="toy_other"):
        replace(good, tasks=(task,))
    with pytest.raises(CertificateError, match="schema"):
        Certificate.from_json(good.to_json() | {"schema": SCHEMA + 1, "news": 1})
    for text in ("", "{", "[]", "NaN"):
        with pytest.raises(CertificateError):
            Certificate.loads(text)


@pytest.mark.parametrize("schema", range(1, SCHEMA))
def test_one_of_an_older_version_says_so(schema: int) -> None:
    old = {"schema": schema, "threshold": 0.9, "method": "betting"}
    with pytest.raises(CertificateError, match=r"older version.*certify again") as caught:
        Certificate.from_json(old)
    assert "\n" not in str(caught.value)


def _leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(data, (dict, list)) and data:
        items = data.items() if isinstance(data, dict) else enumerate(data)
        for step, value in items:
            yield from _leaves(value, (*path, step))
    else:
        yield path


def _other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if isinstance(value, int) else value * 0.9 + 0.01
    return f"{value}x" if isinstance(value, str) else "x"


def test_any_field_edited_by_hand_is_found_out() -> None:
    whole = make_certificate().to_json()
    paths = list(_leaves(whole))
    assert len(paths) > 50
    for path in paths:
        edited = copy.deepcopy(whole)
        _at(edited, path[:-1])[path[-1]] = _other(_at(edited, path))
        with pytest.raises(CertificateError) as caught:
            Certificate.from_json(edited)
        assert "\n" not in str(caught.value), path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("threshold",), 0.8),
        (("threshold",), 0.0),
        (("metric",), "banana"),
        (("metric",), "consistency"),
        (("risk",), 0.01),
        (("delta",), 0.001),
        (("tasks", 0, "documents"), DOCUMENTS * 10),
        (("tasks", 0, "units"), 4000),
        (("tasks", 0, "method"), "binomial"),
        (("tasks", 0, "loss"), "nothing"),
        (("tasks", 0, "values"), [0.0, 0.1]),
        (("tasks", 0, "values"), [0.0, 1.5]),
        (("grid", 2, "outcomes", 0, "mean_loss"), 0.0),
        (("grid", 2, "outcomes", 0, "p_value"), 1e-9),
        (("grid", 3, "outcomes", 0, "p_value"), 0.01),
        (("grid", 2, "outcomes", 0, "losses"), pack([0] * DOCUMENTS)),
        (("grid", 2, "outcomes", 0, "losses"), pack([2] * DOCUMENTS)),
    ],
)
def test_what_follows_from_the_losses_is_computed_again(path: tuple[Any, ...], value: Any) -> None:
    """An edit under a new seal: the losses still say otherwise."""
    edited = make_certificate().to_json()
    _at(edited, path[:-1])[path[-1]] = value
    with pytest.raises(CertificateError):
        Certificate.from_json(_resealed(edited))


def test_a_few_documents_with_large_losses_are_no_certificate() -> None:
    """Whatever p-values stand beside them."""
    with pytest.raises(CertificateError, match=f"no fewer than {LEAST_UNITS}"):
        make_task(documents=1, units=1, unit_of=pack([0]))
    with pytest.raises(CertificateError, match=f"no fewer than {LEAST_UNITS}"):
        make_task(units=20)
    losing = make_certificate({0.9: DOCUMENTS})
    assert losing.threshold is None


def test_documents_of_one_unit_count_once() -> None:
    apart, together = make_task(), make_task(units=LEAST_UNITS)
    assert make_certificate({0.9: 8}, apart).threshold == 0.9
    grouped = make_certificate({0.9: 8}, together)
    (point,) = grouped.grid
    assert point.outcomes[0].p_value > make_certificate({0.9: 8}, apart).grid[0].p_value
    for metric, method in (("consistency", "betting"), ("exact_match", "betting_on_differences")):
        assert make_task(metric, units=LEAST_UNITS).method == method
    assert make_task("consistency", values=(0.0, 1.0)).method == "binomial"


def test_a_long_list_of_thresholds_is_told_by_its_ends() -> None:
    few = make_certificate()
    many = make_certificate({0.99 - 0.001 * number: 0 for number in range(30)})
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

    other: dict[str, Any] = {
        "exit_layers": (4, 9),
        "heads": None,
        "arguments": {"max_length": "512", "revision": "v2"},
        "checkpoint": {"config": "0c0d", "tokenizer": "other"},
    }
    named = {
        "arguments": "revision is v2",
        "checkpoint": "the checkpoint's tokenizer is not what was certified",
    }
    for field in fields(Setting):
        setting = make_setting(**{field.name: other.get(field.name, "other")})
        reason = why_not(certificate, **here | {"setting": setting})
        if field.name == "pretrained":
            assert reason is None, "the weights count, not the name of their folder"
            continue
        assert named.get(field.name, field.name) in str(reason)
        assert "\n" not in str(reason)
    assert "max_length is nothing" in str(
        why_not(certificate, **here | {"setting": make_setting(arguments={})})
    )
    changes: dict[str, Any] = {
        "version": "2.0",
        "output_type": "loglikelihood",
        "num_fewshot": 0,
        "generation_kwargs": {"until": ["\n"], "do_sample": True},
        "repeats": 3,
        "apply_chat_template": False,
        "fewshot_as_multiturn": False,
        "chat_template": "other",
        "system_instruction": "Answer.",
        "rendering": {"doc_to_text": "0123", "description": "other"},
        "metrics": {"exact_match": False},
        "cached": True,
    }
    named = {"rendering": "description", "metrics": "exact_match", "cached": "request cache"}
    assert set(changes) == {f.name for f in fields(TaskSetup)} - {"name"}
    for name, value in changes.items():
        reason = why_not(certificate, **here | {"task": make_setup(**{name: value})})
        assert named.get(name, name) in str(reason)
        assert "\n" not in str(reason)
    elsewhere = why_not(certificate, **here | {"task": make_setup(name="coqa")})
    assert "toy_gen" in str(elsewhere)
    nothing = make_certificate({0.5: 100})
    assert "no threshold was certified" in str(why_not(nothing, **here))
