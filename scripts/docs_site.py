"""The pages of the documentation that are made from the code, and how files become pages.

MkDocs calls the functions ``on_...`` (``hooks`` in ``mkdocs.yml``). The home page is the README;
the guide for contributors and the changelog are pages too; the page of commands is made from their
parsers, so that it has every option with its text and default.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = {
    "dynamax_lm.generate": "dynamax_lm.play.command",
    "dynamax_lm.headroom": "dynamax_lm.headroom.__main__",
    "dynamax_lm.heads.train.prompts": "dynamax_lm.heads.train.prompts",
    "dynamax_lm.heads.train.prompt_maps": "dynamax_lm.heads.train.prompt_maps",
    "dynamax_lm.heads.train": "dynamax_lm.heads.train.options",
    "dynamax_lm.certify": "dynamax_lm.certify.cli",
    "dynamax_lm.sweep": "dynamax_lm.sweep.__main__",
    "dynamax_lm.report": "dynamax_lm.report.__main__",
    "dynamax_lm.bench": "dynamax_lm.bench.__main__",
}
"""Each command, and the module that has its ``parser()``."""

PAGES_OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages made from files beside ``docs/``."""

COMMANDS_PAGE = "commands.md"

_SHARED = "as in lm_eval run"
_INTRODUCTION = """# Every command and its options

Made from the commands' own parsers; `--help` prints the same. An unknown option is refused with the
nearest known one. Options of `lm_eval run` have the meaning that they have there, and are described
once, at the end of the page.
"""
_LM_EVAL = """## `lm_eval`

    lm_eval --model dynamax-mistral --model_args pretrained=tiny --tasks dynamax_coqa_sample

lm-eval's own command line; `lm_eval run --help` lists its options, and [settings](settings.md) the
arguments that our models take in `--model_args`. `python -m dynamax_lm` is the same command line
where start-up hooks do not run.
"""


def parser_of(command: str) -> Any:
    """The parser of one of :data:`COMMANDS`."""
    return importlib.import_module(COMMANDS[command]).parser()


def commands_page() -> str:
    """Markdown: tables of each command's options, and of those of lm-eval at the end."""
    text = [_INTRODUCTION, _LM_EVAL]
    shared: dict[str, argparse.Action] = {}
    for name in COMMANDS:
        parser = parser_of(name)
        description = " ".join(parser.description.split())
        example = "\n".join(f"    {line}" for line in parser.example.splitlines())
        text.append(f"## `python -m {name}`\n\n{description}\n\n{example}\n")
        theirs: list[str] = []
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if action.dest != "help"]
            if group.title is None or not actions:
                continue
            if _SHARED in group.title:
                shared |= {action.dest: action for action in actions}
                theirs += [f"`{action.option_strings[0]}`" for action in actions]
            else:
                text.append(_table(group.title.capitalize(), actions))
        if theirs:
            text.append(f"Of [`lm_eval run`](#options-of-lm_eval-run): {', '.join(theirs)}.\n")
    text.append("## Options of `lm_eval run`\n")
    text.append(_table("Option", list(shared.values())))
    return "\n".join(text)


def _table(title: str, actions: list[argparse.Action]) -> str:
    rows = [f"| {title} | default | |", "|---|---|---|"]
    for action in actions:
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.dest}`"
        if action.choices:
            names += " " + ", ".join(f"`{choice}`" for choice in action.choices)
        rows.append(f"| {names} | {_default(action)} | {_help(action)} |")
    return "\n".join(rows) + "\n"


def _help(action: argparse.Action) -> str:
    """The text, as Markdown that shows it literally."""
    text = " ".join((action.help or "").replace("%%", "%").split())
    return re.sub(r"([|<*_\[\]])", r"\\\1", text)


def _default(action: argparse.Action) -> str:
    value = action.default
    if action.required:
        return "required"
    if value is None or value is False or value in ("", argparse.SUPPRESS) or value == []:
        return ""
    text = str(value)
    return f"`{text}`" if len(text) < 40 else f"`{text[:36]} …`"


def site_links(text: str, home: str = "") -> str:
    """A page's links as links of the site, where they lead to files that become pages.

    Args:
        text: Markdown.
        home: what leads from the page's folder to the repository's, such as ``../``.
    """
    for file, page in PAGES_OUTSIDE.items():
        text = text.replace(f"]({home}{file}", f"]({page}")
    text = text.replace(f"]({home}docs/", "](")
    return text.replace(f"]({home}notebooks/", "](notebooks/")


def places(nav: Iterable[Any]) -> Iterator[str]:
    """The pages of a navigation, in order."""
    for entry in nav:
        if isinstance(entry, str):
            yield entry
            continue
        for value in entry.values():
            yield from [value] if isinstance(value, str) else places(value)


def navigation(nav: list[Any]) -> list[Any]:
    """The navigation of ``mkdocs.yml``, and the pages that it does not place, at its end."""
    named = set(places(nav))
    pages = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
    left = [page for page in pages if page not in named]
    return [*nav, {"More": left}] if left else nav


def on_config(config: Any) -> Any:
    """Give every page a place."""
    config.nav = navigation(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not files of ``docs/``."""
    from mkdocs.structure.files import File

    for file, page in PAGES_OUTSIDE.items():
        text = site_links((ROOT / file).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, COMMANDS_PAGE, content=commands_page()))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{notebook.name}"
        files.append(File.generated(config, name, abs_src_path=str(notebook)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of a page of ``docs/`` to files beside it."""
    return site_links(markdown, "../") if "/" not in page.file.src_uri else markdown


_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n *\S.*)*", re.MULTILINE)
"""From a prompt to the next empty line."""
_ROLE = re.compile(r":\w+:`~?([^`]+)`")


def as_markdown(docstring: str) -> str:
    """A docstring with its examples as blocks of code, and names in place of references.

    In Markdown ``>>>`` would be quotations, whose lines run together.
    """
    text = _ROLE.sub(r"`\1`", docstring)
    return _EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


_LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"(?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//"
)


def loads_from_elsewhere(text: str) -> bool:
    """Whether a page or a style would fetch a script, a style, a font or a picture."""
    return _LOADED.search(text) is not None


def on_post_build(config: Any) -> None:
    """Refuse a site that needs a network when it is read."""
    from mkdocs.exceptions import PluginError

    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in {".html", ".css"} and loads_from_elsewhere(path.read_text("utf-8")):
            raise PluginError(f"{path}: something is loaded from another host")
