"""Trace files: round trip, whole or absent, one a task and rank."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from dynamax_lm.common.tracefile import TraceLine, TraceWriter, read_trace, trace_files, trace_of
from dynamax_lm.core.trace import AnswerTrace

GENERATED = AnswerTrace(
    prompt_tokens=3,
    tokens=(5, 6),
    emitted=(5, 6),
    layers_used=(4, 16),
    confidence=(0.1 + 0.2, None),
    full_depth=(5, 7),
    text_tokens=1,
)
SCORED = AnswerTrace(2, (8,), (9,), (1,), (1.0,))


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "new" / "folder", "coqa") as writer:
        writer.write(17, 0, 0, (GENERATED,))
        writer.write(18, 3, 1, (SCORED, SCORED))
    (path,) = trace_files(tmp_path / "new" / "folder")
    assert list(read_trace(path)) == [
        TraceLine("coqa", 17, 0, 0, 0, 0, 5, 5, 4, 0.1 + 0.2, 5, 3, None, 1),
        TraceLine("coqa", 17, 0, 0, 0, 1, 6, 6, 16, None, 7, 3, None, 1),
        TraceLine("coqa", 18, 3, 1, 0, 0, 8, 9, 1, 1.0, None, 2, None, None),
        TraceLine("coqa", 18, 3, 1, 1, 0, 8, 9, 1, 1.0, None, 2, None, None),
    ]
    lines = list(read_trace(path))
    assert [line.is_text for line in lines] == [True, False, True, True]
    assert trace_of(lines[:2]) == GENERATED
    assert trace_of(lines[2:3]) == SCORED


def test_a_file_whose_rows_do_not_tell_text_from_stop_is_refused(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, "coqa") as writer:
        writer.write(0, 0, 0, (GENERATED,))
    old = [json.loads(line) for line in writer.path.read_text().splitlines()]
    for row in old:
        del row["text_tokens"]
    writer.path.write_text("".join(json.dumps(row) + "\n" for row in old))
    with pytest.raises(ValueError, match="older version"):
        list(read_trace(writer.path))


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _fail_after_writing(tmp_path, KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, "coqa") as writer:
        writer.write(0, 0, 0, (GENERATED,))
        assert trace_files(tmp_path) == []
        assert not writer.path.exists()
    assert trace_files(tmp_path) == [writer.path]


def test_a_failing_run_leaves_the_older_file(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, "coqa") as writer:
        writer.write(0, 0, 0, (GENERATED,))
    before = writer.path.read_bytes()
    with pytest.raises(OSError, match="full"):
        _fail_after_writing(tmp_path, OSError("disk full"))
    assert writer.path.read_bytes() == before


def test_ranks_do_not_collide_and_replace_an_older_split(tmp_path: Path) -> None:
    for rank in range(3):
        with TraceWriter(tmp_path, "coqa", rank, 3):
            pass
    with TraceWriter(tmp_path, "coqa_more"):
        pass
    for rank in range(2):
        with TraceWriter(tmp_path, "coqa", rank, 2):
            pass
    (tmp_path / "samples_coqa.jsonl").touch()
    names = [path.name for path in trace_files(tmp_path, "coqa")]
    assert names == ["trace_coqa.rank0-of-2.jsonl", "trace_coqa.rank1-of-2.jsonl"]
    assert len(trace_files(tmp_path)) == 3


def test_a_tasks_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, "../up/coqa") as writer:
        pass
    assert writer.path.parent == tmp_path
    assert trace_files(tmp_path, "../up/coqa") == [writer.path]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, "coqa") as writer:
        writer.write(0, 0, 0, (GENERATED,))
        tracemalloc.start()
        for doc in range(5000):
            writer.write(doc, 0, 0, (GENERATED,))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert writer.path.stat().st_size > 1_000_000
    assert peak < 100_000


def _fail_after_writing(folder: Path, error: BaseException) -> None:
    with TraceWriter(folder, "coqa") as writer:
        writer.write(0, 0, 0, (SCORED,))
        raise error
