"""A comparison as a folder to publish: report.md, report.html, its numbers, its pictures.

report.html is one file that needs no other. Without matplotlib there are no pictures; without the
test images there are no pictures of single images. A message says so.
"""

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template

from sfl import pictures
from sfl.comparison.cells import sheets
from sfl.comparison.figures import pictures as pictures_of
from sfl.comparison.markdown import escaped, to_markdown
from sfl.comparison.model import ComparedModel
from sfl.comparison.schema import Comparison
from sfl.comparison.table import AUDITED, audit_rows, rows, to_csv
from sfl.errors import UserError
from sfl.files import write_text
from sfl.locks import one_at_a_time
from sfl.pictures import Picture
from sfl.plots.test_images import TestImages, load_test_images
from sfl.progress import say
from sfl.units import one_line


def write(comparison: Comparison, compared: Sequence[ComparedModel], out: Path) -> None:
    """Writes a report into the folder `out`; makes the folder if there is none.

    Deletes the pictures of an earlier report there. Of two processes that write to one folder the
    second waits. Raises UserError: can't be written to (exit 4), disk full (exit 6).
    """
    shown = _drawable(comparison, compared)
    with pictures.picture_folder(out), one_at_a_time(out / ".lock"):
        for name in _pictures_in(out / "report.md"):
            for suffix in (".svg", ".png"):
                (out / (name + suffix)).unlink(missing_ok=True)
        pictures.write_pictures(shown, out)
        write_text(out / "comparison.json", json.dumps(comparison.model_dump()))
        write_text(out / "comparison.csv", to_csv(comparison))
        write_text(out / "report.md", _markdown(comparison, shown))
        write_text(out / "report.html", _page(comparison, compared, shown))


def _pictures_in(report: Path) -> list[str]:
    """The names of the pictures that an earlier report shows; none if there is no such report."""
    try:
        return re.findall(r"^!\[.*\]\(([^()/]+)\.svg\)$", report.read_text("utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return []


def _drawable(comparison: Comparison, compared: Sequence[ComparedModel]) -> list[Picture]:
    if not pictures.has_matplotlib():
        say("no pictures: matplotlib is not installed (install it: pip install matplotlib)")
        return []
    images: TestImages | None = None
    try:
        images = load_test_images(compared[0].config, comparison.data.test)
    except UserError as error:
        say(f"no pictures of single images: {error}")
    return pictures_of(comparison, compared, images)


def _title(comparison: Comparison) -> str:
    names = " and ".join(model.name for model in comparison.models)
    return comparison.grid.name if comparison.grid else names


def _images_line(comparison: Comparison) -> str:
    data = comparison.data
    trained = ", ".join(dict.fromkeys(f"{count:,}" for count in data.train_images))
    counts = f"{trained} images to train on, {data.test_images:,} to test on"
    return f"{data.name}: {counts} (SHA-256 {data.test[:12]}…)"


def _markdown(comparison: Comparison, shown: Sequence[Picture]) -> str:
    parts = [f"# {escaped(_title(comparison))}", escaped(_images_line(comparison))]
    parts += [to_markdown(comparison).strip()]
    for picture in shown:
        parts += [f"![{picture.name}]({picture.name}.svg)", escaped(picture.caption)]
    return "\n\n".join(parts) + "\n"


def _page(
    comparison: Comparison, compared: Sequence[ComparedModel], shown: Sequence[Picture]
) -> str:
    """The report as HTML. It holds its pictures, each for a light and for a dark page."""
    tables = [html_table(sheet.head, sheet.rows, sheet.title) for sheet in sheets(comparison)]
    tables.append(html_table(["", *(m.name for m in comparison.models)], rows(comparison)))
    template = resources.files("sfl.comparison").joinpath("report.html").read_text(encoding="utf-8")
    filled = {
        "title": _text(_title(comparison)),
        "images": _text(_images_line(comparison)),
        "conclusion": "\n".join(f"<p>{_text(line)}</p>" for line in comparison.conclusion),
        "tables": "\n".join(tables),
        "remarks": "\n".join(f"<li>{_text(line)}</li>" for line in comparison.remarks),
        "methods": _methods(comparison),
        "audits": "\n".join(map(_audit, compared)),
        "figures": "\n".join(map(_figure, shown)),
    }
    return Template(template).substitute(filled)


def html_table(
    head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], caption: str = ""
) -> str:
    """Each row: what its line is called, and a text for each column but the first."""
    heads = "".join(f"<th scope=col>{_text(name)}</th>" for name in head[1:])
    body = "\n".join(
        f"<tr><th scope=row{' class=sub' * label.startswith(' ')}>{_text(label.strip())}</th>"
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, cells in rows
    )
    return (
        (f"<p>{_text(caption[0].upper() + caption[1:])}.</p>\n" if caption else "")
        + f'<div class="table"><table>\n<thead><tr><td>{_text(head[0])}</td>{heads}</tr></thead>\n'
        + f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _methods(comparison: Comparison) -> str:
    """Nothing in comparisons that earlier versions wrote."""
    said = " ".join(comparison.methods)
    return f"<h2>Methods</h2>\n<p>{_text(said)}</p>" if said else ""


def _audit(model: ComparedModel) -> str:
    """What a model shares and transports, layer by layer; nothing if its runs don't say it."""
    audit = model.results[-1].result.audit
    if audit is None:
        return ""
    words = "".join(f"<li>{_text(line)}</li>" for line in audit.in_words)
    return (
        f"<h2>{_text(model.name)}: what is shared, and what sends errors back</h2>\n"
        f"{html_table(AUDITED, [(name, cells) for name, *cells in audit_rows(audit)])}\n"
        f"<ul>{words}</ul>"
    )


def _text(text: str) -> str:
    """Text as HTML; no line is broken before a percent sign."""
    return html.escape(one_line(text)).replace(" %", "&nbsp;%")


def _figure(picture: Picture) -> str:
    light, dark = (
        "data:image/svg+xml;base64,"
        + base64.b64encode(pictures.to_svg(picture.draw, picture.size, dark=dark)).decode()
        for dark in (False, True)
    )
    caption = _text(picture.caption)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{caption}"></picture><figcaption>{caption}</figcaption></figure>'
    )
