"""One loss for each document, from its logged values.

``common.certificate.losses`` defines the losses and selects the test of each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from dynamax_lm.common.certificate import AGREEMENT, LIKENESS, LossKind, loss_kind
from dynamax_lm.common.errors import SettingError, one_line
from dynamax_lm.common.risk_tests import Losses
from dynamax_lm.core.summary import agreement_without_text
from dynamax_lm.core.texts import Texts, text_key
from dynamax_lm.harness.reference import PREFIX
from dynamax_lm.harness.responses import record_of
from dynamax_lm.settings.values import hint


@dataclass(frozen=True)
class Loss:
    """The loss on one task.

    Attributes:
        metric: ``agreement``, ``consistency``, or a metric of the task.
        higher_is_better: of the metric.
        kind: its definition and test.
    """

    metric: str
    higher_is_better: bool
    kind: LossKind

    def of(self, sample: Mapping[str, Any]) -> float:
        """One document's loss.

        Args:
            sample: the logged values of the document.

        Returns:
            For agreement and consistency, 1 - the value, in [0, 1]; an answer without text, which
            has no agreement, has 0 if it stops as full depth does and 1 if not. For a metric of
            the task, the full-depth model's value minus the run's own, in [-1, 1] (its negative if
            lower is better).

        Raises:
            SettingError: the document has no such value, or one outside [0, 1].
        """
        if self.metric == AGREEMENT and sample.get(AGREEMENT) is None:
            return 1 - agreement_without_text(self._share(sample, f"{AGREEMENT}_with_stop"))
        if self.metric in LIKENESS:
            return 1 - self._share(sample, self.metric)
        loss = self._share(sample, PREFIX + self.metric) - self._share(sample, self.metric)
        return loss if self.higher_is_better else -loss

    def _share(self, sample: Mapping[str, Any], key: str) -> float:
        value = sample.get(key)
        where = f"document {sample.get('doc_id')}"
        if value is None:
            raise SettingError(
                f"metric={self.metric}: {where} has no {key}: the task has none, or the reference "
                "was omitted; choose another metric"
            )
        single = isinstance(value, (Real, np.bool_)) or (
            isinstance(value, np.ndarray) and value.ndim == 0
        )
        number = float(value) if single else float("nan")
        if not 0 <= number <= 1:
            shown = one_line(repr(value), 60)
            raise SettingError(
                f"metric={self.metric}: {where} has {key}={shown}, not a number in [0, 1]; "
                "only metrics that are averages of such numbers have a risk"
            )
        return number


def choose_loss(
    metric: str, directions: Mapping[str, bool | None], *, repeats: int, grouped: bool
) -> Loss:
    """The loss of ``metric``, with the test for its range.

    Args:
        metric: as given.
        directions: for each metric of the task, whether higher is better.
        repeats: answers for each document.
        grouped: whether some unit has several documents.

    Raises:
        SettingError: the task has no such metric.
    """
    if metric not in LIKENESS and metric not in directions:
        raise unknown_metric(metric, directions)
    kind = loss_kind(metric, directions, repeats=repeats, grouped=grouped)
    return Loss(metric, directions.get(metric) is not False, kind)


def unknown_metric(metric: str, known: Collection[str]) -> SettingError:
    """The error for a metric that a task does not have."""
    names = [*LIKENESS, *sorted(known)]
    return SettingError(
        f"metric={metric}: no such metric here; choose one of {', '.join(names)}"
        f"{hint(metric, names)}"
    )


def refuse_empty(task: str, samples: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a task on which most of full depth's own answers are empty.

    Args:
        task: its name.
        samples: logged values, with the model's own responses.

    Raises:
        SettingError: more than half of the full-depth answers are empty.
    """
    records = [
        record_of(response)
        for sample in samples
        for repeats in sample["resps"]
        for response in repeats
    ]
    answers = (record.reference for record in records if record is not None)
    texts = Texts.of(text_key(answer) for answer in answers if isinstance(answer, str))
    if texts.mostly_empty:
        raise SettingError(
            f"tasks={task}: {texts.empty} of {texts.answers} full-depth answers are empty, and "
            f"agreement with them is meaningless; change the prompts, for example by --num_fewshot"
        )


def losses_of(loss: Loss, samples: Sequence[Mapping[str, Any]], order: Sequence[int]) -> Losses:
    """The losses of documents in a given order.

    Args:
        loss: of the task.
        samples: logged values under the task's first filter, one a document.
        order: document ids, each once.

    Returns:
        (N,)
    """
    by_id = {sample["doc_id"]: loss.of(sample) for sample in samples}
    if set(by_id) != set(order):
        raise SettingError(f"{len(by_id)} documents were answered, {len(order)} were asked")
    return np.array([by_id[doc_id] for doc_id in order], dtype=np.float64)
