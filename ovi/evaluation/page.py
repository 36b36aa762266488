"""The shape of a report page: one self-contained HTML file, and the few pieces its sections are made of.

Styles, pictures and players are inside the file; nothing is fetched and no script runs. It does not know any figure.
Try it: `ovi report`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

FRONT = "<!-- front -->"  # where a section can be put before all others


def page(title: str, body: str) -> str:
    """A whole document."""
    style = (files("ovi.evaluation") / "report.css").read_text()
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">' \
           f"<title>{escape(title)}</title><style>\n{style}</style>"  # fmt: skip
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'


def section(title: str, *parts: str) -> str:
    return f"\n<section><h2>{escape(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def words(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def tile(name: str, figure: str, under: str) -> str:
    """One headline figure with what it is above and how to read it below."""
    return (f'<div class="tile"><div class="name">{escape(name)}</div><div class="figure">{escape(figure)}</div>'
            f'<div class="under">{escape(under)}</div></div>')  # fmt: skip


def card(title: str, caption: str, *parts: str) -> str:
    """A drawing with its title and a sentence; `caption` is HTML."""
    return (f'<figure class="card"><h3>{escape(title)}</h3><figcaption>{caption}</figcaption>'
            + "".join(parts) + "</figure>")  # fmt: skip


def key(kind: str, label: str) -> str:
    return f'<span class="key {kind}"></span>{escape(label)}'


def table(head: list[str], rows: list[list[str]]) -> str:
    """Plain text cells; the second column is figures."""
    cells = "".join(_row("td", row) for row in rows)
    return f'<div class="wide"><table><thead>{_row("th", head)}</thead><tbody>{cells}</tbody></table></div>'


def figures_table(head: list[str], rows: list[list[str]], own: bool = True) -> str:
    """A name and then figures; with `own` the first row is the one the others are read beside."""
    lines = "".join(
        f'<tr{" class=own" if own and at == 0 else ""}><th>{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for at, (name, *cells) in enumerate(rows)
    )  # fmt: skip
    return (f'<div class="wide"><table class="figures"><thead>{_row("th", head)}</thead><tbody>{lines}</tbody></table>'
            "</div>")  # fmt: skip


def sorting_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], orders: Sequence[Sequence[int]], hints: Sequence[str]
) -> str:
    """A table that sorts by the title that is chosen. orders[c][r]: the place of row r in the order of column c."""
    buttons = "".join(
        f'<input type="radio" name="by" id="by{at}"{" checked" if at == 0 else ""}>' for at in range(len(titles))
    )
    rules = "".join(
        f"#by{at}:checked~.rows>.row{{order:var(--o{at})}}#by{at}:checked~.heads>label[for=by{at}]{{color:var(--ink)}}"
        for at in range(len(titles))
    )
    heads = "".join(f'<label for="by{at}">{escape(title)}</label>' for at, title in enumerate(titles))
    lines = []
    for at, (row, hint) in enumerate(zip(rows, hints, strict=True)):
        places = ";".join(f"--o{column}:{order[at]}" for column, order in enumerate(orders))
        cells = "".join(f"<span>{escape(cell)}</span>" for cell in row)
        lines.append(f'<div class="row" style="{places}" title="{escape(hint)}">{cells}</div>')
    return (f'<style>{rules}</style><div class="sorted" style="--columns:{len(titles)}">{buttons}'
            f'<div class="heads">{heads}</div><div class="rows">{"".join(lines)}</div></div>')  # fmt: skip


def clip(prompt: str, mp4: bytes, strip: bytes, waveform: bytes, under: str) -> str:
    """A player beside its prompt, frames and sound."""
    player = f'<video controls preload="metadata" src="data:video/mp4;base64,{_base64(mp4)}"></video>'
    return (f'<article class="card clip"><div>{player}</div><div>{prompt_words(prompt)}'
            f'{image(strip, "eight frames from first to last")}{image(waveform, "waveform and spectrogram")}'
            f'<div class="small soft">{escape(under)}</div></div></article>')  # fmt: skip


def image(png: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{_base64(png)}">'


def prompt_words(prompt: str) -> str:
    """A prompt for readers: speech in quotation marks, the sound description set apart, no tags."""
    shown = escape(prompt, quote=False)
    shown = re.sub(r"&lt;S&gt;(.*?)&lt;E&gt;", r'<span class="said">“\1”</span>', shown, flags=re.S)
    shown = re.sub(r"&lt;AUDCAP&gt;(.*?)&lt;ENDAUDCAP&gt;", r'<span class="heard">\1</span>', shown, flags=re.S)
    return f'<p class="prompt">{shown}</p>'


def _row(cell: str, values: list[str]) -> str:
    marked = [
        f"<{cell}{' class=n' if index == 1 else ''}>{escape(value)}</{cell}>" for index, value in enumerate(values)
    ]
    return f"<tr>{''.join(marked)}</tr>"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
