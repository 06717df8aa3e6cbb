"""A template is compiled once, and renders what it rendered before."""

from __future__ import annotations

from typing import Any

import lm_eval.utils
import pytest
from jinja2 import UndefinedError

from dynamax_lm.harness import install
from dynamax_lm.harness.templates import around_from_string


def test_a_template_is_compiled_once_and_others_are_others() -> None:
    asked: list[Any] = []

    def compile_template(source: Any, *rest: Any) -> list[Any]:
        asked.append(source)
        return [source, *rest]

    first = around_from_string(compile_template, "{{a}}")
    assert around_from_string(compile_template, "{{a}}") is first
    assert around_from_string(compile_template, "{{b}}") == ["{{b}}"]
    assert asked == ["{{a}}", "{{b}}"]
    assert around_from_string(compile_template, "{{a}}", 1) == ["{{a}}", 1], "with its own globals"


def test_lm_eval_renders_each_document_from_the_kept_template() -> None:
    install.install()
    template = "{{a}}{% if b %} and {{b | regex_replace('x', 'y')}}{% endif %}\n"
    apply = lm_eval.utils.apply_template
    assert apply(template, {"a": 1, "b": "x"}) == "1 and y\n"
    assert apply(template, {"a": 2, "b": ""}) == "2\n"
    with pytest.raises(UndefinedError):
        apply(template, {"b": ""})
    env = lm_eval.utils.env
    assert env.from_string(template) is env.from_string(template)
