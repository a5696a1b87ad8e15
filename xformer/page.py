"""Pages that need nothing but themselves: pieces of HTML, in which every text is escaped."""

import base64
import html
from collections.abc import Collection, Iterable, Sequence


def page(title: str, headline: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole page of (title, HTML) sections."""
    body = ''.join(f'<section><h2>{html.escape(name)}</h2>\n{content}</section>\n'
                   for name, content in sections)
    title = html.escape(title)
    return (f'{_HEAD}<title>{title}</title>\n<body>\n<h1>{title}</h1>\n'
            f'{paragraph(headline, "headline")}{body}</body>\n</html>\n')


def paragraph(text: str, kind: str = '') -> str:
    """A text, of a class of the style sheet."""
    return f'<p class="{kind}">{html.escape(text)}</p>\n'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = (),
           marked: Collection[int] = ()) -> str:
    """Columns named in `numbers` are set flush right, rows whose index is in `marked` tinted."""
    def line(tag: str, cells: Sequence[str]) -> str:
        return ''.join(f'<{tag}{" class=number" if name in numbers else ""}>{html.escape(cell)}'
                       f'</{tag}>' for name, cell in zip(header, cells, strict=True))
    body = ''.join(f'<tr{" class=marked" if i in marked else ""}>{line("td", row)}</tr>\n'
                   for i, row in enumerate(rows))
    return (f'<div class="scroll"><table>\n<thead><tr>{line("th", header)}</tr></thead>\n'
            f'<tbody>\n{body}</tbody>\n</table></div>\n')


def picture(png: bytes, description: str, kind: str = '') -> str:
    """At half its size in pixels."""
    width = int.from_bytes(png[16:20], 'big') // 2  # the header's; shown at half size
    return (f'<div class="scroll card {kind}"><img width="{width}" alt="{description}" '
            f'src="data:image/png;base64,{base64.b64encode(png).decode()}"></div>\n')


# The policy forbids scripts and anything that is not in the page itself.
_HEAD = '''<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; --text: #1f2328; --soft: #656d76; --page: #fff;
        --line: #d8dee4; --mark: #fff4d6; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --soft: #9198a1; --page: #0d1117; --line: #30363d; --mark: #3a2f12; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
       max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { margin: .5rem 0 0; } h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
.headline { font-size: 1.15rem; margin-top: .25rem; } p { margin: .5rem 0; }
.pair { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: flex-start; }
.pair > * { flex: 0 1 auto; min-width: 0; } .pair > .chart { flex: 1 1 18rem; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem;
         border-bottom: 1px solid var(--line); overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; } .number { text-align: right; }
td:first-child { white-space: nowrap; }
.marked { background: var(--mark); } .marked td:first-child { font-weight: 600; }
.card { background: #fff; border-radius: 6px; padding: .5rem; }
.card img { display: block; margin: 0 auto; } .chart img { max-width: 100%; height: auto; }
</style>
'''
