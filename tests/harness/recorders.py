"""W&B, trackio and the hub as recorders: they keep what they get, and refuse what those would.

A refusal is noted as well, since lm-eval's command line goes on without a sink that fails.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest


class Strict:
    """Notes and refuses values that are not plain, finite JSON."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def plain(self, value: Any, where: str) -> Any:
        try:
            return json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            self.refuse(f"{where}: {error}")

    def refuse(self, problem: str) -> None:
        self.problems.append(problem)
        raise TypeError(problem)


class Table:
    """``wandb.Table``, and what becomes of a data frame that is logged."""

    def __init__(self, columns: list[str], strict: Strict | None = None) -> None:
        self.columns, self.rows, self._strict = columns, [], strict or Strict()
        self.rows: list[dict[str, Any]]

    def add_data(self, *row: Any) -> None:
        if len(row) != len(self.columns):
            self._strict.refuse(f"{len(row)} cells for {len(self.columns)} columns")
        cells = zip(self.columns, row, strict=True)
        self.rows.append({name: self._strict.plain(cell, name) for name, cell in cells})


class WandbRecorder(ModuleType):
    """Stands in for the module ``wandb``, and for its run."""

    def __init__(self, strict: Strict) -> None:
        super().__init__("wandb")
        self.__version__ = "0.31.0"
        self.run: Any = None
        self._strict = strict
        self.arguments: dict[str, Any] = {}
        self.configured: dict[str, Any] = {}
        self.summarised: dict[str, Any] = {}
        self.numbers: dict[str, Any] = {}
        self.tables: dict[str, Table] = {}
        self.artifacts: dict[str, str] = {}
        self.finished = False
        self.Table = lambda columns: Table(columns, strict)
        self.Artifact = Artifact

    def init(self, **arguments: Any) -> Any:
        self.arguments = arguments
        self.run = SimpleNamespace(
            config=SimpleNamespace(update=self._configure),
            summary=SimpleNamespace(update=self._summarise),
            log=self._log,
            log_artifact=self._keep,
            finish=self._finish,
        )
        return self.run

    def _configure(self, values: dict[str, Any], allow_val_change: bool = False) -> None:
        self.configured |= values  # any types: both real ones make text of what they do not know

    def _summarise(self, values: dict[str, Any]) -> None:
        self.summarised |= self._strict.plain(values, "summary")

    def _log(self, values: dict[str, Any], step: int | None = None) -> None:
        for name, value in values.items():
            if isinstance(value, pd.DataFrame):
                table = Table(list(value.columns), self._strict)
                for row in value.astype(object).itertuples(index=False):
                    table.add_data(*map(_python, row))
                value = table
            if isinstance(value, Table):
                self.tables[name] = value
            else:
                self.numbers[name] = self._strict.plain(value, name)

    def _keep(self, artifact: Artifact) -> None:
        self.artifacts[artifact.name] = artifact.text

    def _finish(self) -> None:
        self.finished = True


class Artifact:
    """``wandb.Artifact`` with one file."""

    def __init__(self, name: str, type: str) -> None:
        self.name, self.type, self.text = name, type, ""

    @contextmanager
    def new_file(self, name: str, mode: str, encoding: str) -> Iterator[io.StringIO]:
        file = io.StringIO()
        yield file
        self.text = file.getvalue()


class TrackioRecorder(ModuleType):
    """Stands in for the module ``trackio``."""

    def __init__(self, strict: Strict) -> None:
        super().__init__("trackio")
        self._strict = strict
        self.Trace = self._trace
        self.config = SimpleNamespace(update=self._configure)
        self.arguments: dict[str, Any] = {}
        self.configured: dict[str, Any] = {}
        self.numbers: dict[str, Any] = {}
        self.traces: list[dict[str, Any]] = []
        self.finished = False

    def init(self, **arguments: Any) -> None:
        self.arguments = arguments

    def _trace(self, messages: Any, metadata: Any) -> dict[str, Any]:
        trace = {"messages": messages, "metadata": metadata}
        return dict(self._strict.plain(trace, "trace"))

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                self.traces.append(value)
            else:
                self.numbers[name] = self._strict.plain(value, name)

    def finish(self) -> None:
        self.finished = True

    def _configure(self, values: dict[str, Any]) -> None:
        self.configured |= values


class Hub:
    """The hub as a folder, and the order in which things came to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[tuple[str, str]] = []
        self.cards: dict[str, str] = {}

    def api(self, token: str) -> Any:
        """``huggingface_hub.HfApi(token)``."""
        assert token
        return SimpleNamespace(
            create_repo=self._create,
            upload_file=self._upload_file,
            upload_folder=self._upload_folder,
            list_repo_files=self._list,
        )

    def url(self, repo_id: str, filename: str, repo_type: str) -> str:
        return str(self.folder / repo_id / filename)

    def push_card(self, card: Any, repo_id: str, repo_type: str) -> None:
        self.events.append(("card", repo_id))
        self.cards[repo_id] = str(card)

    def files(self, repo_id: str) -> dict[str, Path]:
        root = self.folder / repo_id
        return {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}

    def _create(self, repo_id: str, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert repo_type == "dataset"
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def _upload_file(
        self,
        repo_id: str,
        path_or_fileobj: str,
        path_in_repo: str,
        repo_type: str,
        commit_message: str,
    ) -> None:
        self.events.append(("file", path_in_repo))
        target = self.folder / repo_id / path_in_repo
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path_or_fileobj, target)

    def _upload_folder(
        self,
        repo_id: str,
        folder_path: str,
        path_in_repo: str,
        repo_type: str,
        commit_message: str,
    ) -> None:
        self.events.append(("folder", path_in_repo))
        shutil.copytree(folder_path, self.folder / repo_id / path_in_repo, dirs_exist_ok=True)

    def _list(self, repo_id: str, repo_type: str) -> list[str]:
        return sorted(self.files(repo_id))


class Sinks:
    """All three, in place of the real ones for the time of one run."""

    def __init__(self, folder: Path) -> None:
        self.strict = Strict()
        self.wandb, self.trackio = WandbRecorder(self.strict), TrackioRecorder(self.strict)
        self.hub = Hub(folder / "hub")

    def install(self, patch: pytest.MonkeyPatch) -> None:
        printer = ModuleType("wandb.sdk.lib.printer")
        printer.new_printer = lambda: None  # type: ignore[attr-defined]
        modules = {"wandb": self.wandb, "trackio": self.trackio, printer.__name__: printer}
        for name in ("wandb.sdk", "wandb.sdk.lib"):
            modules[name] = ModuleType(name)
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        patch.setattr("huggingface_hub.HfApi", self.hub.api)
        patch.setattr("huggingface_hub.hf_hub_url", self.hub.url)
        patch.setattr(
            "huggingface_hub.DatasetCard.push_to_hub",
            lambda card, repo_id, repo_type: self.hub.push_card(card, repo_id, repo_type),
        )


def _python(cell: Any) -> Any:
    """A cell as W&B's ``Table`` takes it from a data frame: numpy's scalars become Python's."""
    return cell.item() if hasattr(cell, "item") else cell
