"""From sections of tables and pictures to one HTML file that loads nothing: styles, script and drawings are in it.

Pictures are the SVG that is also written to files, a few dozen kilobytes each; a plotting library in the page would add
three megabytes for the zoom and the tips that `page.js` has in a hundred lines.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import hispec_sim
from hispec_sim.report.figures import STYLE
from hispec_sim.report.summary import ParameterSummary
from hispec_sim.report.sweep_figures import Picture

PIXELS_PER_INCH = 90


@dataclass(frozen=True, slots=True)
class Cell:
    """What a table shows, and the number it is sorted by (None: by its text)."""

    text: str
    value: float | None = None


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table; row `bold` stands out (None: no row)."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    bold: int | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page, in the order: paragraphs, tables, pictures, code."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    pictures: Sequence[Picture] = ()
    code: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page: the answer in a sentence, then its sections."""

    title: str
    sentence: str
    sections: Sequence[Section] = field(default_factory=tuple)


def number(value: float, form: str = ".4g") -> Cell:
    """A cell with a number."""
    return Cell(format(value, form).rstrip("."), float(value))


def parameters_table(parameters: Iterable[ParameterSummary]) -> PageTable:
    """The named numbers of a scenario with their sources."""
    rows = [
        [
            Cell(parameter.name),
            number(parameter.value),
            Cell("" if parameter.range is None else f"{parameter.range[0]:g} to {parameter.range[1]:g}"),
            Cell(parameter.source),
        ]
        for parameter in parameters
    ]
    return PageTable(("parameter", "value", "range", "source"), rows)


def render(page: Page) -> str:
    """The HTML text."""
    environment = Environment(
        loader=PackageLoader("hispec_sim.report.page", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    here = files("hispec_sim.report.page")
    return environment.get_template("page.html.jinja").render(
        page=page,
        style=Markup(here.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(here.joinpath("page.js").read_text(encoding="utf-8")),
        svg=inline_svg,
        version=hispec_sim.__version__,
    )


def inline_svg(picture: Picture) -> Markup:
    """The picture as an SVG element: ids are its own among all pictures of a page, parts with tips carry them."""
    stream = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.fonttype": "none", "font.family": "sans-serif"}):
        picture.figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg ([^>]*?)(?:width|height)=\"[^\"]*\" ", r"<svg \1", text, count=1)
    text = re.sub(r"<svg ([^>]*?)(?:width|height)=\"[^\"]*\" ", r"<svg \1", text, count=1)
    width = f"max-width:{PIXELS_PER_INCH * picture.figure.get_figwidth():.0f}px"
    named = f'<svg role="img" style="{width}" aria-label="{escape(picture.caption, quote=True)}" '
    text = text.replace("<svg ", named, 1)

    def own(match: re.Match[str]) -> str:
        tip = picture.tips.get(match[1])
        shown = "" if tip is None else f' tabindex="0" data-tip="{escape(tip, quote=True)}"'
        return f'id="{picture.name}-{match[1]}"{shown}'

    text = re.sub(r'\bid="([^"]*)"', own, text)
    text = re.sub(r"url\(#", f"url(#{picture.name}-", text)
    return Markup(re.sub(r'href="#', f'href="#{picture.name}-', text))
