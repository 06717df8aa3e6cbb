"""Wrong settings end a command with one line and status 1; everything else is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fresh
import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.command_line import option_names
from dynamax_lm.harness.plugin.errors import install_one_line_errors
from dynamax_lm.harness.run_arguments import check_run_arguments

PROGRAM = """
from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.plugin.errors import install_one_line_errors

install_one_line_errors()
install_one_line_errors()
try:
    raise KeyError("inner")
except KeyError as error:
    raise {kind}("threshold=abc: give a number") from error
"""


def program(folder: Path, body: str) -> Path:
    """A program by the name of ``lm_eval`` that has installed one-line errors before ``body``."""
    file = folder / "lm_eval"
    file.write_text(
        f"import os, sys; sys.path.insert(0, {str(fresh.ROOT)!r})\n"
        "from dynamax_lm.harness.plugin.errors import install_one_line_errors\n"
        f"install_one_line_errors()\n{body}"
    )
    return file


def run(folder: Path, script: str, kind: str) -> subprocess.CompletedProcess[str]:
    """A program by the name of ``script`` that ends in an exception."""
    file = folder / script
    file.write_text(
        f"import sys; sys.path.insert(0, {str(fresh.ROOT)!r})\n{PROGRAM.format(kind=kind)}"
    )
    return subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=60)


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``python -m`` with these words, in a folder, without a network."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(fresh.ROOT), "HF_HUB_OFFLINE": "1"},
        check=False,
    )


@pytest.mark.parametrize("script", ["lm_eval", "lm-eval", "lm_eval.exe"])
def test_a_command_prints_one_line_and_fails(script: str, tmp_path: Path) -> None:
    ran = run(tmp_path, script, "SettingError")
    assert ran.returncode == 1
    assert ran.stderr == "dynamax_lm: error: threshold=abc: give a number\n"
    assert ran.stdout == ""


ENDS = {
    "KeyboardInterrupt()": (130, "dynamax_lm: interrupted\n"),
    "OSError(28, 'No space left on device', 'out/a')": (
        1,
        "dynamax_lm: error: [Errno 28] No space left on device: 'out/a'\n",
    ),
}


@pytest.mark.parametrize("raised", ENDS)
def test_interrupts_and_full_disks_are_one_line(raised: str, tmp_path: Path) -> None:
    file = program(tmp_path, f"raise {raised}\n")
    ran = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=60)
    status, line = ENDS[raised]
    assert ran.returncode in {status, 128 - status if status > 128 else status}
    assert ran.stderr == line


@pytest.mark.parametrize(("several", "status"), [(False, 143), (True, -signal.SIGTERM)])
def test_a_signal_to_terminate_is_one_line_and_removes_unfinished_files(
    several: bool, status: int, tmp_path: Path
) -> None:
    """One of several processes ends at once, as it may be blocked."""
    file = program(
        tmp_path,
        "import pathlib, signal\n"
        "from dynamax_lm.common.outputs import replacing\n"
        f"with replacing(pathlib.Path({str(tmp_path / 'table.md')!r})) as partial:\n"
        "    partial.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n",
    )
    ran = subprocess.run(
        [sys.executable, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **({"WORLD_SIZE": "2"} if several else {})},
    )
    assert ran.returncode == status
    assert ran.stderr == ("" if several else "\ndynamax_lm: ended by SIGTERM\n")
    left = {one.name for one in tmp_path.iterdir()} - {"lm_eval"}
    assert bool(left) == several


def test_a_terminal_of_plain_ascii_ends_no_command(tmp_path: Path) -> None:
    file = program(tmp_path, "print('a \u2026 \u2265 b')\n")
    ran = subprocess.run(
        [sys.executable, str(file)],
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (ran.returncode, ran.stdout) == (0, b"a \\u2026 \\u2265 b\n")


def test_a_closed_stream_is_no_place_for_the_next_file(tmp_path: Path) -> None:
    """After ``>&-`` a file that the command opens would get what libraries print."""
    file = program(
        tmp_path,
        f"kept = open({str(tmp_path / 'kept')!r}, 'w')\n"
        "sys.stdout.write('text'); sys.stdout.flush(); os.write(1, b'of a library')\n",
    )
    command = f"{sys.executable} {file} >&-"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "kept").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output_path", "{folder}/link"], "link to nothing"),
        (["-o", "{folder}/file"], "is a file"),
        (["--output_path={folder}/file/x.json"], "is a file"),
        (["--limit", os.fsdecode(b"\xff")], "not UTF-8"),
        (["--limit", "inf"], "--limit inf"),
        (["-L", "nan"], "--limit nan"),
        (["--limit=-3"], "--limit -3"),
        (["--seed", "1,2,-1,4"], "--seed -1"),
        (["--seed", "4294967296"], "--seed 4294967296"),
        (["--limit", "2"], None),
        (["--limit", "0.5", "--seed", "0,None,1234"], None),
        (["--seed", "5-"], None),  # lm-eval's own parser tells
        (["--seed", "1,+-2"], None),
        (["--output_path", "{folder}/mine.json", "--limit", "2"], None),
        (["--output_path"], None),
    ],
)
def test_lm_evals_own_line_is_looked_at_before_weights_load(
    arguments: list[str], words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    given = [word.replace("{folder}", str(tmp_path)) for word in arguments]
    monkeypatch.setattr(sys, "argv", ["pytest", *given])
    check_run_arguments()
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lm_eval", "run", *given])
    if words is None:
        check_run_arguments()
        return
    with pytest.raises(SettingError, match=words):
        check_run_arguments()


def test_our_own_command_looks_before_lm_eval_does() -> None:
    """lm-eval seeds numpy, which refuses by a traceback, before it makes a model."""
    command = [sys.executable, "-m", "dynamax_lm", "--model", "hf", "--seed", "-1"]
    ran = subprocess.run(command, cwd=fresh.ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr == "dynamax_lm: error: --seed -1: give whole numbers in 0..4294967295\n"


def test_a_hook_that_was_there_before_learns_of_the_failure(tmp_path: Path) -> None:
    """W&B keeps account of a run's end by such a hook, and prints the traceback as it does."""
    file = tmp_path / "lm_eval"
    file.write_text(
        f"import sys, traceback; sys.path.insert(0, {str(fresh.ROOT)!r})\n"
        "def keep_account(kind, error, trace):\n"
        "    print('failed:', kind.__name__)\n"
        "    traceback.print_exception(kind, error, trace)\n"
        "sys.excepthook = keep_account\n" + PROGRAM.format(kind="SettingError")
    )
    command = [sys.executable, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stdout == "failed: SettingError\n"
    assert ran.stderr == "dynamax_lm: error: threshold=abc: give a number\n"


@pytest.mark.parametrize(
    ("script", "kind"), [("lm_eval", "ValueError"), ("mine.py", "SettingError")]
)
def test_other_errors_and_other_programs_keep_their_traceback(
    script: str, kind: str, tmp_path: Path
) -> None:
    ran = run(tmp_path, script, kind)
    assert ran.returncode == 1
    assert ran.stderr.startswith("Traceback")
    assert "inner" in ran.stderr


@pytest.mark.parametrize(
    ("main", "argument", "installed"),
    [
        ("lm_eval.__main__", "x", True),
        ("dynamax_lm.__main__", "x", True),
        ("dynamax_lm.sweep.__main__", "x", True),
        ("dynamax_lm_other", "x", False),
        ("pytest.__main__", "x", False),
        (None, "/usr/bin/lm_eval", True),
        (None, "/usr/bin/lm_eval_else", False),
        (None, "", False),
    ],
)
def test_only_command_lines_are_touched(
    main: str | None, argument: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.excepthook
    spec = None if main is None else SimpleNamespace(name=main)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))  # type: ignore[misc]
    monkeypatch.setattr(sys, "argv", [argument])
    monkeypatch.setattr(sys, "excepthook", before)
    install_one_line_errors()
    assert (sys.excepthook is not before) == installed


def test_a_library_user_catches_it_as_a_value_error() -> None:
    assert issubclass(SettingError, ValueError)


@pytest.mark.parametrize(
    ("module", "model", "status", "words"),
    [
        ("lm_eval", "dynamax-mistral", 1, ["did you mean dynamax_coqa_sample?"]),
        ("dynamax_lm", "dynamax-mamba", 1, ["did you mean dynamax_coqa_sample?"]),
        ("lm_eval", "hf", 1, ["Traceback", "ValueError: Tasks not found: dynamax_coqa_sampel"]),
    ],
)
def test_an_unknown_task_brings_the_nearest(
    module: str, model: str, status: int, words: list[str], tmp_path: Path
) -> None:
    arguments = ["--model", model, "--model_args", "pretrained=tiny"]
    done = typed(tmp_path, module, *arguments, "--tasks", "dynamax_coqa_sampel")
    assert done.returncode == status
    assert all(word in done.stderr for word in words), done.stderr
    assert ("Traceback" in done.stderr) == ("Traceback" in words)


@pytest.mark.parametrize("module", ["dynamax_lm", "dynamax_lm.headroom"])
def test_an_unknown_task_may_be_one_of_the_included(module: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "zebra.yaml").write_text("task: zebra_crossing\noutput_type: generate_until\n")
    arguments = ["--model", "dynamax-mistral", "--model_args", "pretrained=tiny"]
    tasks = ["--tasks", "zebra_crosing", "--include_path", str(folder), "--output_path", "out"]
    done = typed(tmp_path, module, *arguments, *tasks)
    assert done.returncode == 1
    assert "zebra_crosing (did you mean zebra_crossing?)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--modle", "dynamax-mistral", "--tasks", "x"],
            "--modle is unknown: did you mean --model?",
        ),
        (["ls", "tasks", "--includepath", "x"], "did you mean --include_path?"),
        (["validate", "--taks", "x"], "--taks is unknown: did you mean --tasks?"),
    ],
)
def test_an_unknown_option_brings_the_nearest(words: list[str], said: str, tmp_path: Path) -> None:
    done = typed(tmp_path, "dynamax_lm", *words)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{said}\n")


@pytest.mark.parametrize("command", ["ls", "validate", "run", "--model"])
def test_no_sub_command_is_told_an_option_of_another(command: str) -> None:
    names = option_names(command)
    assert "--include_path" in names
    assert ("--limit" in names) == (command not in {"ls", "validate"})
    assert ("--tasks" in names) == (command != "ls")


def test_an_unknown_task_of_a_configuration_file_brings_the_nearest(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("model: dynamax-mamba\ntasks: [dynamax_coqa_sampel]\n")
    done = typed(tmp_path, "lm_eval", "run", "--config", str(config))
    assert done.returncode == 1
    assert "did you mean dynamax_coqa_sample?" in done.stderr
    assert "Traceback" not in done.stderr
