"""Wheels and editable installs bring the hook, it works, and an uninstall leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import fresh
import pytest

pytestmark = pytest.mark.slow

HOOKS = {"dynamax_lm_hook.pth", "dynamax_lm_hook.start"}

PROBE = """
import json, sys
waiting = any(type(finder).__name__ == "Waiter" for finder in sys.meta_path)
heavy = sorted({"torch", "transformers", "lm_eval"} & set(sys.modules))
import lm_eval.models, lm_eval.tasks.manager
from lm_eval.api.registry import model_registry
from lm_eval.tasks import TaskManager
lm_eval.tasks.manager.__file__ = '/nowhere/manager.py'  # ours alone: stock files take seconds
manager = TaskManager()
names = sorted(name for name in manager.all_tasks if name.startswith("dynamax"))
print(json.dumps([waiting, heavy, "dynamax-mamba" in model_registry, names]))
"""


def quiet(*command: str, **options: str) -> str:
    """Run a command away from the repository, so that nothing is imported from it by accident."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | options
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=280, cwd="/", env=environment
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package is built from, apart from the repository."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(fresh.ROOT / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(fresh.ROOT / "dynamax_lm", folder / "dynamax_lm", ignore=ignored)
    if (fresh.ROOT / "heads").is_dir():
        shutil.copytree(fresh.ROOT / "heads", folder / "heads", ignore=ignored)
    return folder


@pytest.fixture
def python(tmp_path: Path) -> str:
    """A fresh environment that sees this one's libraries, but not its start-up files."""
    venv.create(tmp_path / "env", with_pip=True)
    interpreter = str(tmp_path / "env" / "bin" / "python")
    libraries = [path for path in site.getsitepackages() if Path(path).is_dir()]
    where(interpreter).joinpath("libraries.pth").write_text("\n".join(libraries))
    return interpreter


def where(python: str) -> Path:
    return Path(
        quiet(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".pyc"}


def wheel(source: Path, folder: Path) -> str:
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source))
    quiet(sys.executable, *build)
    (built,) = folder.glob("*.whl")
    return str(built)


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_installed_it_works_and_uninstalled_it_is_gone(
    kind: str, python: str, source: Path, tmp_path: Path
) -> None:
    folder = where(python)
    before = files(folder)
    what = (wheel(source, tmp_path),) if kind == "wheel" else ("--editable", str(source))
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    install = ("install", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    quiet(*pip, *install, *what)
    assert set(os.listdir(folder)) >= HOOKS

    waiting, heavy, registered, names = json.loads(quiet(python, "-c", PROBE).splitlines()[-1])
    assert waiting
    assert heavy == []
    assert registered
    assert "dynamax_coqa_sample" in names
    off = json.loads(quiet(python, "-c", PROBE, DYNAMAX_LM_NO_HOOK="1").splitlines()[-1])
    assert off == [False, [], False, []]

    quiet(*pip, "uninstall", "--yes", "dynamax-lm")
    assert files(folder) == before
    assert not HOOKS & set(os.listdir(folder))
    quiet(python, "-c", "pass")


def test_a_wheel_has_the_models_tasks_and_licences(source: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(wheel(source, tmp_path)) as archive:
        inside = set(archive.namelist())
    for path in (fresh.ROOT / "dynamax_lm").rglob("*"):
        if path.is_file() and path.suffix in {".py", ".yaml", ".jsonl", ".safetensors", ".md"}:
            assert str(path.relative_to(fresh.ROOT)) in inside
    assert inside >= HOOKS
    assert any(name.endswith("licenses/LICENSE") for name in inside)
