"""The size of the package: lines and files by folder, lengths of functions, arrows between folders.

``python scripts/house.py`` describes this checkout, ``python scripts/house.py FOLDER`` another's.
An arrow is a pair of folders of which a module of the one imports from the other.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NAME = "dynamax_lm"


class Module(NamedTuple):
    """One file of the package.

    Attributes:
        folder: below the package; its own name for a module at the top.
        lines: of the file.
        code: lines without blank ones, comments and docstrings.
        functions: lines of each.
        classes: how many.
        imports: folders of the package that it imports from.
    """

    folder: str
    lines: int
    code: int
    functions: list[int]
    classes: int
    imports: set[str]


def read(package: Path) -> list[Module]:
    """Every module below a package's folder."""
    return [_read(package, path) for path in sorted(package.rglob("*.py"))]


def _read(package: Path, path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [one for one in ast.walk(tree) if isinstance(one, kinds)]
    return Module(
        _folder(path.relative_to(package).parts),
        len(text.splitlines()),
        _code(text, tree),
        [(one.end_lineno or one.lineno) - one.lineno + 1 for one in functions],
        sum(isinstance(one, ast.ClassDef) for one in ast.walk(tree)),
        set(_imports(tree)),
    )


def _folder(parts: tuple[str, ...]) -> str:
    return parts[0] if len(parts) > 1 else "(top)"


def _code(text: str, tree: ast.AST) -> int:
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    used: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*skipped, tokenize.ENDMARKER, tokenize.ENCODING):
            used.update(range(token.start[0], token.end[0] + 1))
    for one in ast.walk(tree):
        string = one.value if isinstance(one, ast.Expr) else None
        if isinstance(string, ast.Constant) and isinstance(string.value, str):
            used -= set(range(one.lineno, (one.end_lineno or one.lineno) + 1))
    return len(used)


def _imports(tree: ast.AST) -> Iterator[str]:
    for one in ast.walk(tree):
        names = [one.module or ""] if isinstance(one, ast.ImportFrom) else []
        if isinstance(one, ast.Import):
            names = [alias.name for alias in one.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == NAME and len(parts) > 1:
                yield parts[1]


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[1])
    modules = read(parser.parse_args().checkout / NAME)
    lengths = sorted(length for one in modules for length in one.functions)
    folders = Counter(one.folder for one in modules)
    arrows = {
        (one.folder, other)
        for one in modules
        for other in one.imports
        if other in folders and other != one.folder and one.folder != "(top)"
    }
    print(f"lines {sum(one.lines for one in modules):,} in {len(modules)} files")
    print(f"code {sum(one.code for one in modules):,}")
    tenth = statistics.quantiles(lengths, n=10)[-1]
    print(f"functions: median {statistics.median(lengths):g}, p90 {tenth:g}, max {lengths[-1]}")
    print(f"largest file {max(one.lines for one in modules)}")
    print(f"classes {sum(one.classes for one in modules)}")
    print(f"arrows between folders {len(arrows)}")
    for folder, count in sorted(folders.items()):
        own = [one for one in modules if one.folder == folder]
        lines, code = sum(one.lines for one in own), sum(one.code for one in own)
        print(f"| {folder} | {count} | {lines:,} | {code:,} |")


if __name__ == "__main__":
    main()
