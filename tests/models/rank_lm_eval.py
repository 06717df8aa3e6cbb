"""One data-parallel process of ``test_processes``: lm-eval's command on the package's tasks."""

from __future__ import annotations

import functools

from lm_eval.tasks import TaskManager

from dynamax_lm.__main__ import main

if __name__ == "__main__":
    import lm_eval.tasks

    # Thousands of tasks of others are left unread, in each process.
    lm_eval.tasks.TaskManager = functools.partial(TaskManager, include_defaults=False)  # type: ignore[misc,assignment]
    main()
