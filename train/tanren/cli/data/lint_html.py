"""The report of `tanren data lint` as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tanren.cli.display import counted

_SHOWN_PLACES = 50
_LANGUAGES = {
    "en": "English",
    "ja": "Japanese",
    "zh": "Chinese",
    "ko": "Korean",
    "other": "other",
    "unclear": "too short to tell",
}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 440, 170, 44, 40

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfaf7; --card: #ffffff; --ink: #1c2127; --muted: #616b77; --line: #dcdad3;
  --bar: #2f6fab; --error: #b3261e; --warning: #96650b; --note: #616b77; --good: #3d8a5f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --card: #1d2126; --ink: #e4e6e9; --muted: #98a2ae; --line: #343a42;
    --bar: #6ea8dc; --error: #ff8a80; --warning: #e0b25a; --note: #98a2ae; --good: #6fbf92;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 62rem; background: var(--page);
  color: var(--ink); font: 16px/1.6 system-ui, "Hiragino Sans", "Noto Sans JP", "Yu Gothic",
  "IPAGothic", sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
.subtitle { color: var(--muted); margin: .35rem 0 1.25rem; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: 1rem; min-width: 0; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--muted); font-size: 12px; }
svg rect { fill: var(--bar); }
svg line { stroke: var(--line); }
.bars { display: grid; grid-template-columns: minmax(5rem, auto) 1fr auto; gap: .2rem .75rem;
  align-items: center; font-size: .9rem; font-variant-numeric: tabular-nums; }
.bars b { font-weight: 400; overflow-wrap: anywhere; }
.bars i { display: block; height: .8rem; background: var(--bar); border-radius: 2px;
  min-width: 1px; }
.bars span { text-align: right; color: var(--muted); }
.bars h4 { grid-column: 1 / -1; margin: .5rem 0 0; font-size: .85rem; font-weight: 600; }
details { border-bottom: 1px solid var(--line); padding: .6rem 0; }
summary { cursor: pointer; display: grid; gap: 0 .9rem; align-items: baseline;
  grid-template-columns: .8rem 4.5rem 1fr auto; }
summary::before { content: "▸"; color: var(--muted); }
details[open] > summary::before { content: "▾"; }
summary .rows { font-variant-numeric: tabular-nums; color: var(--muted); white-space: nowrap; }
.severity { font-size: .85rem; font-weight: 700; }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); }
.good { color: var(--good); }
code { color: var(--muted); font-size: .85rem; }
.about { margin: .5rem 0 .5rem 7.1rem; }
.about p { margin: .25rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums;
  margin: .5rem 0; min-width: 100%; }
td, th { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid var(--line); font-weight: 600; }
td { border-bottom: 1px solid var(--line); }
td:last-child { overflow-wrap: anywhere; min-width: 14rem; }
.number { text-align: right; }
td.number { color: var(--muted); }
td:nth-child(-n + 2), th:nth-child(-n + 2) { width: 1%; white-space: nowrap; }
@media (max-width: 40rem) {
  .about { margin-left: 0; }
  .charts { grid-template-columns: 1fr; }
  summary { grid-template-columns: .8rem 1fr auto; }
  summary .severity { grid-column: 2 / -1; }
  summary .what { grid-column: 2; }
}
"""


def lint_page(document: Mapping[str, Any]) -> str:
    """`document` is `LintReport.as_dict()`. No script, nothing fetched, users' text escaped."""
    files = document["files"]
    title = f"Lint of {', '.join(file['path'] for file in files)}"
    body = "\n".join(_file(file) for file in files)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Is the data fit to train on?</h1>
<p class="subtitle">{_subtitle(document)}</p>
{body}
</body>
</html>
"""


def _subtitle(document: Mapping[str, Any]) -> str:
    rows = sum(file["rows"] for file in document["files"])
    counts = document["counts"]
    said = [f"{rows:,} rows"]
    for name in ("error", "warning", "note"):
        color = name if counts[name] else ""
        said.append(f'<span class="{color}">{counted(counts[name], name)}</span>')
    if document["against"]:
        said.append(f"compared with {_text(', '.join(document['against']))}")
    if document["near_threshold"] is None:
        said.append("near repeats were not looked for")
    return " · ".join(said)


def _file(file: Mapping[str, Any]) -> str:
    cards = [
        _card("Characters of a prompt", _histogram(file["prompt_characters"])),
        _card("Characters of an answer", _histogram(file["answer_characters"])),
        _card("Languages", _languages(file["languages"])),
    ]
    if file["labels"]:
        labels = file["labels"]
        about = f"{labels['distinct']} labels, entropy {labels['entropy_bits']:.2f} bits"
        cards.append(_card("Labels", _bars(labels["counts"]) + f"<p><code>{about}</code></p>"))
    findings = "\n".join(map(_finding, file["findings"]))
    faulty = ""
    if file["faulty_rows"]:
        faulty = f'<p class="error">{file["faulty_rows"]:,} rows cannot be used</p>'
    return f"""<section>
<h2>{_text(file["path"])}: {file["rows"]:,} rows</h2>
{faulty}
<div class="charts">{"".join(cards)}</div>
<h2>Findings</h2>
{findings or '<p class="good">Nothing was found.</p>'}
</section>"""


def _card(title: str, content: str) -> str:
    return f'<div class="card"><h3>{_text(title)}</h3>{content}</div>'


def _finding(finding: Mapping[str, Any]) -> str:
    severity = finding["severity"]
    is_open = " open" if severity == "error" else ""
    rows = f"{finding['rows']:,} row{'' if finding['rows'] == 1 else 's'}"
    fix = " <code>--fix</code>" if finding["fixed_by_fix"] else ""
    facts = "".join(
        f"<p><code>{_text(name)}: {_text(_number(value))}</code></p>"
        for name, value in finding["facts"].items()
    )
    return f"""<details{is_open}>
<summary><span class="severity {severity}">{severity}</span>
<span class="what">{_text(finding["finds"])} <code>{_text(finding["rule"])}</code>{fix}</span>
<span class="rows">{rows}</span></summary>
<div class="about"><p>What to do: {_text(finding["remedy"])}.</p>{facts}
{_places(finding)}</div>
</details>"""


def _places(finding: Mapping[str, Any]) -> str:
    places: Sequence[Mapping[str, Any]] = finding["places"][:_SHOWN_PLACES]
    if not places:
        return ""
    rows = "".join(
        f'<tr><td class="number">{place["line"]}</td><td><code>{_text(place["path"])}</code></td>'
        f"<td>{_text(place['shown'])}</td></tr>"
        for place in places
    )
    hidden = finding["rows"] - len({place["line"] for place in places})
    more = f"<p>and {hidden:,} more rows</p>" if hidden > 0 else ""
    head = '<tr><th class="number">line</th><th>where</th><th>what stands there</th></tr>'
    return f'<div class="scroll"><table>{head}{rows}</table></div>{more}'


def _histogram(histogram: Mapping[str, Any]) -> str:
    """Bars over a logarithmic axis; every bar says its bounds and its rows when pointed at."""
    counts, edges = histogram["counts"], histogram["edges"]
    if not counts:
        return "<p>no rows</p>"
    if len(counts) == 1:
        return f"<p>{sum(counts):,} rows, each of {counted(round(edges[0]), 'character')}</p>"
    most = max(counts)
    width = (_WIDTH - _LEFT) / len(counts)
    bars = "".join(
        f'<rect x="{_LEFT + i * width + 0.5:.1f}" y="{_top(count, most):.1f}" '
        f'width="{width - 1:.1f}" height="{_HEIGHT - _BOTTOM - _top(count, most):.1f}">'
        f"<title>{edges[i]:,.0f} to {edges[i + 1]:,.0f} characters: {count:,} rows</title></rect>"
        for i, count in enumerate(counts)
        if count
    )
    ticks = "".join(
        f'<text x="{_LEFT + i * width:.1f}" y="{_HEIGHT - _BOTTOM + 16}" '
        f'text-anchor="middle">{edges[i]:,.0f}</text>'
        for i in range(0, len(edges), max(1, len(counts) // 6))
    )
    base = _HEIGHT - _BOTTOM
    label = f"Lengths of {sum(counts):,} rows"
    return f"""<svg viewBox="0 0 {_WIDTH + 24} {_HEIGHT}" role="img" aria-label="{label}">
<line x1="{_LEFT}" y1="{base}" x2="{_WIDTH}" y2="{base}"/>
<text x="{_LEFT - 6}" y="18" text-anchor="end">{most:,}</text>
<text x="{_LEFT - 6}" y="{base}" text-anchor="end">0</text>
{bars}{ticks}
<text x="{(_WIDTH + _LEFT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">characters</text>
</svg>"""


def _top(count: int, most: int) -> float:
    """Where a bar of this count begins; the smallest can still be seen."""
    height = _HEIGHT - _BOTTOM - 12
    return _HEIGHT - _BOTTOM - max(1.5, height * count / most)


def _languages(languages: Mapping[str, Mapping[str, int]]) -> str:
    parts = []
    for what in ("questions", "answers"):
        counts = {_LANGUAGES[name]: rows for name, rows in languages[what].items()}
        parts.append(f"<h4>{what.capitalize()}</h4>{_bar_rows(counts)}")
    return f'<div class="bars">{"".join(parts)}</div>'


def _bars(counts: Mapping[str, int]) -> str:
    return f'<div class="bars">{_bar_rows(counts)}</div>'


def _bar_rows(counts: Mapping[str, int]) -> str:
    most = max(counts.values(), default=1)
    return "".join(
        f'<b>{_text(name)}</b><i style="width: {100 * rows / most:.1f}%"></i><span>{rows:,}</span>'
        for name, rows in sorted(counts.items(), key=lambda item: -item[1])
    )


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    return escape(str(value))
