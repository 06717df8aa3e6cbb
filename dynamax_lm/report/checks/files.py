"""Checks of a run's files against its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dynamax_lm.common.errors import one_line
from dynamax_lm.common.manifest import Digest, Manifest, digest_of, manifest_beside
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.runs import Run

NO_MANIFEST = "no manifest of digests: whether its files are those that the run wrote"
_SHARED = "not the trace that the manifest lists: {} ran later with the same trace_dir"


def read_manifests(runs: Sequence[Run], found: Verification) -> dict[Path, Manifest]:
    """The manifest of each run that has one, by results file."""
    manifests = {}
    for run in runs:
        path = manifest_beside(run.path)
        if path is None or not path.is_file():
            found.leave(str(run.path), NO_MANIFEST)
            continue
        try:
            manifests[run.path] = Manifest.read(path)
        except (OSError, ValueError) as error:
            found.refuse(f"{path}: cannot be read ({one_line(error, 120)})")
    return manifests


def check_files(run: Run, manifests: Mapping[Path, Manifest], found: Verification) -> None:
    """Every file of a run against its manifest."""
    manifest = manifests.get(run.path)
    if manifest is None:
        return
    name = str(manifest_beside(run.path))
    block = run.early_exit or {}
    found.compare(f"{name} fingerprint", manifest.fingerprint, block.get("fingerprint"))
    identity = block.get("identity") or {}
    found.compare(f"{name} version", manifest.version, identity.get("version"))
    for file, digest in manifest.files.items():
        _check_file(run.path.with_name(file), digest, found)
    here = {run.path.name, *(path.name for path in run.sample_files.values())}
    for file in sorted(here - set(manifest.files)):
        found.refuse(f"{run.path.with_name(file)}: not in the run's manifest")
    if run.settings.get("trace_dir") or manifest.traces:
        _check_traces(run, manifest, manifests, found)


def _check_traces(
    run: Run, manifest: Manifest, manifests: Mapping[Path, Manifest], found: Verification
) -> None:
    traces = {path.name: path for task in run.tasks() for path in run.trace_files(task)}
    for name, digest in manifest.traces.items():
        path = traces.pop(name, None)
        if path is None:
            found.refuse(f"{run.path}: its trace {name} is missing")
            continue
        later = _later_owner(run, path, manifests)
        if later is not None:
            found.leave(str(path), _SHARED.format(later))
            continue
        _check_file(path, digest, found)
    for path in traces.values():
        found.refuse(f"{path}: not in the manifest of {run.path}")


def _later_owner(run: Run, path: Path, manifests: Mapping[Path, Manifest]) -> Path | None:
    """Another run whose manifest has the present trace."""
    own = manifests[run.path].traces[path.name]
    try:
        now = digest_of(path)
    except OSError:
        return None
    if now == own:
        return None
    others = (other for other in manifests if other != run.path)
    return next((o for o in others if manifests[o].traces.get(path.name) == now), None)


def _check_file(path: Path, digest: Digest, found: Verification) -> None:
    try:
        now = digest_of(path)
    except FileNotFoundError:
        found.refuse(f"{path}: missing, but in the run's manifest")
        return
    except OSError as error:
        found.refuse(f"{path}: cannot be read ({error.strerror})")
        return
    found.require(now == digest, f"{path}: changed since the run wrote it, by its manifest")
