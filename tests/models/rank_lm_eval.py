"""One data-parallel process of ``test_processes``: lm-eval's command on the package's tasks.

Arguments after ``--next`` are those of a further command, which the same process runs.
"""

from __future__ import annotations

import functools
import sys
from itertools import groupby

from lm_eval.tasks import TaskManager

from dynamax_lm.__main__ import main

if __name__ == "__main__":
    import lm_eval.evaluator
    import lm_eval.tasks

    # Thousands of tasks of others are left unread, in each process, and so is the machine.
    lm_eval.tasks.TaskManager = functools.partial(TaskManager, include_defaults=False)  # type: ignore[misc,assignment]
    lm_eval.evaluator.add_env_info = lambda results: None
    lm_eval.evaluator.get_git_commit_hash = lambda: None
    program, *given = sys.argv
    for ends, arguments in groupby(given, "--next".__eq__):
        if not ends:
            sys.argv = [program, *arguments]
            main()
