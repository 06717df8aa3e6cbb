"""The report inside lm-eval: what every early-exit run shows beside its task's own metrics.

Data driven: it acts on responses that carry records and leaves all other models' runs as they were.
It does not know how a record was made.
"""

from dynamax_lm.harness.block import early_exit_block
from dynamax_lm.harness.install import announce, install
from dynamax_lm.harness.live import LiveModel

__all__ = ["LiveModel", "announce", "early_exit_block", "install"]
