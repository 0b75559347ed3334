"""A page: one HTML file with its style inside it, nothing loaded from anywhere; written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from zowarmup.disk import Disk
from zowarmup.errors import OutputError
from zowarmup.report.canvas import KIND, LOW

_COLOURS = f":root {{ --low-fill:{LOW}; --zeroth:{KIND['zeroth-order']}; }}"


def page(title: str, body: Iterable[str]) -> str:
    """A whole document; ``body`` is HTML, ``title`` plain text."""
    style = (resources.files(__package__) / "page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_COLOURS}\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def tile(name: str, value: str, detail: str, *, kind: str = "other") -> str:
    """A number that matters, as plain text; ``detail`` is HTML."""
    return f'<div class="tile {kind}"><h3>{escape(name)}</h3><b>{escape(value)}</b><span>{detail}</span></div>'


def figure(title: str, svg: str | None, caption: str, *, instead: str = "") -> str:
    """A figure on its card; ``caption`` and ``instead``, shown where there is no picture, are HTML."""
    if svg is None:
        empty = f'<figure class="none"><h3>{escape(title)}</h3><figcaption>{instead}</figcaption></figure>'
        return empty if instead else ""
    return f'<figure class="tall"><h3>{escape(title)}</h3>{svg}<figcaption>{caption}</figcaption></figure>'


def dot(colour: str, text: str, *, hollow: bool = False) -> str:
    """A coloured dot before plain text, for captions."""
    look = f"border:2px solid {colour}" if hollow else f"background:{colour}"
    return f'<i class="dot" style="{look}"></i>{escape(text)}'


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls on its own where it is too wide; the head is plain text, cells are HTML."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = (
        f'<tr><th scope="row">{cells[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in cells[1:]) + "</tr>"
        for cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """A list of names, plain text, and values, HTML."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in items) + "</dl>"


def card(content: str) -> str:
    """HTML on a card."""
    return f'<div class="card">{content}</div>'


def save(out: Path, text: str) -> Path:
    """Write ``text`` to ``out``, which is whole at any time.

    Raises:
        OutputError: ``out`` is a folder.
        DiskError: it cannot be written.
    """
    if out.is_dir():
        raise OutputError(f"{out}: expected a file to write the report to, got a folder", path=out)
    Disk().write(out, text.encode())
    return out
