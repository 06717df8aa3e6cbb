"""Certificates: thresholds with a bounded risk, and the runs for which the bound holds."""

from dynamax_lm.common.certificate.document import NOT_CERTIFIED, SCHEMA, Certificate, why_not
from dynamax_lm.common.certificate.losses import (
    AGREEMENT,
    CONSISTENCY,
    LIKENESS,
    LossKind,
    loss_kind,
)
from dynamax_lm.common.certificate.outcomes import (
    LEAST_UNITS,
    CertifiedTask,
    GridPoint,
    TaskOutcome,
    p_value_of,
    pack,
    unit_means,
)
from dynamax_lm.common.certificate.records import CertificateError
from dynamax_lm.common.certificate.setup import Setting, TaskSetup

__all__ = [
    "AGREEMENT",
    "CONSISTENCY",
    "LEAST_UNITS",
    "LIKENESS",
    "NOT_CERTIFIED",
    "SCHEMA",
    "Certificate",
    "CertificateError",
    "CertifiedTask",
    "GridPoint",
    "LossKind",
    "Setting",
    "TaskOutcome",
    "TaskSetup",
    "loss_kind",
    "p_value_of",
    "pack",
    "unit_means",
    "why_not",
]
