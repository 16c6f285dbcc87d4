"""The look of a page, in light and in dark."""

STYLE = """
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5b6675; --line: #dfe3e9; --rule: #eceff3;
  --accent: #2458b8; --code: #f0f2f6; --good: #17693f; --good-back: #e2f4ea; --bad: #a11b2b; --bad-back: #fdecee;
  --note: #6b4b00; --note-back: #fff5d9; --c0: #2f6fd0; --c1: #1691a8; --c2: #159a6c; --c3: #6f9c1c; --c4: #b98a00;
  --c5: #d2641a; --c6: #c93a56; --c7: #8e4bbd;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1a2029; --ink: #e4e8ee; --soft: #9aa6b5; --line: #2d3643; --rule: #262e39;
    --accent: #8ab4ff; --code: #222a35; --good: #7fd6a4; --good-back: #17372a; --bad: #ff9aa6; --bad-back: #421d24;
    --note: #f0cf7a; --note-back: #38301a; --c0: #6ea4f5; --c1: #4fc3d6; --c2: #4ccb9c; --c3: #a6cf5a; --c4: #e0b73f;
    --c5: #f29354; --c6: #f0758b; --c7: #bf8ae8;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 4rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink); line-height: 1.5; font-size: 15px; overflow-wrap: break-word;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
nav {
  position: sticky; top: 0; z-index: 5; display: flex; gap: .25rem; overflow-x: auto;
  padding: .45rem max(1.25rem, calc(50% - 36.75rem));
  background: var(--card); border-bottom: 1px solid var(--line); white-space: nowrap; font-size: .875rem; scrollbar-width: none;
}
nav a { color: var(--soft); text-decoration: none; padding: .25rem .6rem; border-radius: 999px; }
nav a:hover, nav a[aria-current] { color: var(--ink); background: var(--code); }
nav .home {
  font-weight: 650; color: var(--ink); padding-left: 0; max-width: 15rem; overflow: hidden; text-overflow: ellipsis;
  flex-shrink: 0;
}
nav .home:hover { background: none; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: .5rem; top: .5rem; z-index: 9; background: var(--card); padding: .5rem; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
h1 { font-size: clamp(1.4rem, 4.5vw, 2rem); line-height: 1.2; margin: 0; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .8rem; letter-spacing: -.005em; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
.kicker {
  margin: 0 0 .2rem; font-size: .75rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase;
  color: var(--soft);
}
.lead { margin: .35rem 0 0; font-size: 1.05rem; color: var(--soft); }
.quiet { color: var(--soft); font-size: .875rem; margin: .6rem 0; }
code, pre {
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .8125rem;
}
code { overflow-wrap: anywhere; }
pre {
  background: var(--code); padding: .8rem 1rem; border-radius: 6px; overflow: auto; max-height: 32rem;
  line-height: 1.45; margin: .6rem 0;
}
pre code { overflow-wrap: normal; }
.card, section > details, .chart, .tile, section > .scroll, section > dl {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
.card { padding: 1rem 1.15rem; margin: 0 0 1rem; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.4rem 0 0; }
.facts .tile { flex: 1 1 9rem; padding: .7rem 1rem .8rem; }
.facts .wide { flex: 2 1 17rem; }
dt { color: var(--soft); font-size: .8125rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.facts b { display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.facts span { display: flex; flex-wrap: wrap; gap: 0 .75rem; color: var(--soft); font-size: .8125rem; }
dl { margin: 0; }
section > dl, details dl { padding: .35rem 1.15rem; }
section > dl > div, details dl > div, article dl > div {
  display: grid; grid-template-columns: minmax(7rem, 13rem) 1fr; gap: .25rem 1rem; padding: .4rem 0;
  border-bottom: 1px solid var(--rule);
}
section > dl > div:last-child, details dl > div:last-child { border-bottom: 0; }
details > .card { border: 0; padding: .6rem 0 0; margin: 0; }
details details { margin-top: .6rem; }
section > dl + details, section > details + details, section > .card + details { margin-top: .75rem; }
article details { border-top: 1px solid var(--rule); margin-top: .5rem; padding-top: .5rem; }
section > details { padding: .65rem 1.15rem; }
details dl { padding: .35rem 0; font-size: .875rem; }
summary { cursor: pointer; font-weight: 550; overflow-wrap: anywhere; }
summary small { color: var(--soft); font-weight: 400; font-size: .875rem; margin-left: .4rem; }
summary .badge { margin-left: .4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); margin-top: 1rem; }
.chart { position: relative; margin: 0; padding: .8rem 1rem; min-width: 0; }
.job .chart { background: none; }
.chart figcaption { font-weight: 600; font-size: .9375rem; margin-bottom: .3rem; }
.chart small { font-weight: 400; color: var(--soft); font-size: .8125rem; margin-left: .3rem; }
.chart > svg { display: block; width: 100%; height: auto; overflow: visible; touch-action: pan-y; border-radius: 4px; }
svg line, polyline { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.rule { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--line); stroke-width: 1; }
.level { stroke: var(--soft); stroke-dasharray: 5 4; }
.cursor { stroke: var(--soft); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 11.5px; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.main { stroke: var(--ink); }
polyline.main { stroke-width: 2.2; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); } .c6 { stroke: var(--c6); } .c7 { stroke: var(--c7); }
circle { fill: var(--card); stroke-width: 1.6; }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; padding: 0; margin: .45rem 0 0;
  font-size: .8125rem; color: var(--soft);
}
.legend li { overflow-wrap: anywhere; }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.key { width: 18px; height: 6px; margin-right: .4rem; vertical-align: middle; }
.key line { stroke-width: 2.5; }
.tip {
  position: absolute; top: 2.6rem; z-index: 3; pointer-events: none; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px;
  padding: .4rem .6rem; font-size: .78rem; line-height: 1.45; box-shadow: 0 3px 12px rgb(0 0 0 / .16); max-width: 70%;
}
.tip div { display: flex; gap: .4rem; align-items: center; }
.tip b { margin-left: auto; padding-left: .6rem; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
.sharp { image-rendering: pixelated; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; align-items: start; }
.samples .card { margin: 0; min-width: 0; }
.samples .quiet { margin: .1rem 0 .8rem; }
.frames { display: flex; gap: 1rem; overflow-x: auto; }
.frames figure { margin: 0; flex: none; max-width: 100%; }
.frames img { width: 100%; max-width: 40rem; }
.frames figure { width: 100%; }
.job .frames img, .job > figure img { width: auto; }
.frames figcaption { font-size: .8125rem; color: var(--soft); }
.js .frames figure:not(.on), .js .frames figcaption { display: none; }
.controls { display: none; align-items: center; gap: .8rem; margin-bottom: .8rem; flex-wrap: wrap; }
.js .controls { display: flex; }
.controls input { flex: 1 1 6rem; min-width: 0; accent-color: var(--accent); height: 1.75rem; }
.controls output { min-width: 5.5rem; font-variant-numeric: tabular-nums; }
button { font: inherit; color: inherit; cursor: pointer; }
.controls button {
  min-width: 4.5rem; padding: .3rem .8rem; background: var(--code); border: 1px solid var(--line); border-radius: 6px;
}
.moving img { margin-bottom: .8rem; }
.strip img { max-width: none; width: max(100%, 30rem); }
.panel img { max-width: none; }
.panel img { width: max(100%, 46rem); background: #fff; }
.picture img, #pareto img { background: #fff; margin: 0 auto; }
.scroll { overflow-x: auto; }
section > .scroll { padding: .2rem .4rem; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
th, td { text-align: left; padding: .42rem .75rem; border-bottom: 1px solid var(--rule); vertical-align: baseline; }
th { color: var(--soft); font-weight: 550; font-size: .8125rem; white-space: nowrap; }
th button { background: none; border: 0; padding: 0; color: inherit; font-weight: inherit; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: var(--code); }
td { overflow-wrap: normal; }
td code { overflow-wrap: normal; white-space: nowrap; }
.long { min-width: 15rem; }
td a { white-space: nowrap; }
h3 small { font-weight: 400; color: var(--soft); margin-left: .4rem; }
.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.badge {
  display: inline-block; padding: .05rem .5rem; border-radius: 999px; font-size: .75rem; font-weight: 600;
  white-space: nowrap; background: var(--code); color: var(--soft);
}
.good { background: var(--good-back); color: var(--good); }
.bad { background: var(--bad-back); color: var(--bad); }
.alert, .note { border-radius: 8px; padding: .65rem 1rem; margin: .9rem 0; font-size: .9375rem; overflow-wrap: anywhere; }
.alert { background: var(--bad-back); color: var(--bad); border-left: 4px solid; }
.alert ul { margin: .2rem 0 0; padding-left: 1.1rem; }
.note { background: var(--note-back); color: var(--note); border-left: 4px solid; }
.missing, .empty { color: var(--soft); font-style: italic; font-size: .875rem; }
.missing { margin: .4rem 0; }
.thumbs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 12rem), 1fr)); gap: 1rem; }
.thumbs .tile {
  padding: .7rem; color: inherit; text-decoration: none; display: flex; flex-direction: column; gap: .5rem;
  font-size: .8125rem; overflow-wrap: anywhere;
}
.thumbs .tile:hover { border-color: var(--accent); }
.thumbs img { width: 100%; }
.thumbs b { display: block; }
.job { display: grid; gap: 1rem; padding: 1rem 0 .4rem; }
.job > * { min-width: 0; margin: 0; }
.job > figure figcaption { font-size: .8125rem; color: var(--soft); }
footer { color: var(--soft); font-size: .8125rem; padding-top: 3rem; padding-bottom: 2.5rem; }
@media (max-width: 34rem) {
  header, main, footer { padding-left: .9rem; padding-right: .9rem; }
  nav { padding-left: .9rem; padding-right: .9rem; }
  nav .home { max-width: 8rem; }
  .tick { font-size: 14px; }
  .card, .chart { padding: .75rem .8rem; }
  .facts .tile { flex: 1 1 7.5rem; } .facts .wide { flex: 1 1 100%; }
  section > dl > div, details dl > div, article dl > div { grid-template-columns: 1fr; gap: 0; }
  section > dl, section > details { padding-left: .8rem; padding-right: .8rem; }
}
@media (prefers-reduced-motion: reduce) { .moving { display: none; } }
@media print { nav, .controls { display: none; } body { background: #fff; } section { break-inside: avoid; } }
"""
