"""The look of pages: light and dark, wide and narrow, colours of Okabe and Ito that are told apart without colour vision."""

from __future__ import annotations

_LIGHT = """--paper:#fbfbfa;--card:#fff;--ink:#1c1e21;--soft:#5b626b;--line:#dfe2e6;--track:#eef0f2;--shade:#fdebd3;
--alarm:#b34700;--accent:#0072b2;--m0:#0072b2;--m1:#d55e00;--m2:#009e73;--m3:#b0558a;--m4:#56b4e9;--m5:#9a7b00;--m6:#6b6b6b;--m7:#1c1e21"""
_DARK = """--paper:#141619;--card:#1d2024;--ink:#e9ebee;--soft:#a4abb5;--line:#343941;
--track:#2a2e34;--shade:#4a3415;--alarm:#ff9d4d;--accent:#56b4e9;--m0:#56b4e9;--m1:#ff8a3d;--m2:#2fc79b;--m3:#e39ac4;
--m4:#9ad4f5;--m5:#e6c84a;--m6:#b5b5b5;--m7:#e9ebee"""
_COLOURS = f":root{{{_LIGHT}}}\n@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}\n"

PAGE_STYLE = (
    _COLOURS
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,Ubuntu,sans-serif}
main{max-width:62rem;margin:0 auto;padding:1.25rem 1rem 3rem}
h1{font-size:1.35rem;line-height:1.25;margin:0 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;line-height:1.35;margin:0 0 .35rem}
h3{font-size:.95rem;margin:0 0 .1rem}
p{margin:.2rem 0}
.soft,figcaption,.note{color:var(--soft)}
.note{font-size:.85rem;margin:.15rem 0 .6rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1rem 1.1rem;margin:1rem 0}
.alarm{border-top:4px solid var(--alarm)}
.where{color:var(--alarm)}
.why{font-size:1.02rem}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1.1rem 2rem;margin:1.1rem 0}
.pictures{display:grid;grid-template-columns:repeat(6,1fr);gap:.9rem;margin:1rem 0 .4rem;align-items:start}
figure{margin:0;grid-column:span 2}
figure.wide{grid-column:span 3}
figure img,.absent{width:100%;display:block;border-radius:8px;border:1px solid var(--line)}
.absent{aspect-ratio:3/2;background:var(--track);display:grid;place-items:center;color:var(--soft);font-size:.85rem;
text-align:center;padding:.5rem}
figure.peak img{border:3px solid var(--alarm)}
figcaption{font-size:.85rem;line-height:1.4;margin-top:.35rem}
figcaption b{color:var(--ink)}
blockquote{margin:.3rem 0 0;padding-left:.6rem;border-left:3px solid var(--line);font-style:italic}
mark{background:var(--shade);color:inherit;padding:0 .15em;border-radius:3px;font-style:normal;font-weight:600}
.bar{display:grid;grid-template-columns:minmax(6.2rem,9.5rem) 1fr 6.4rem;gap:.6rem;align-items:center;margin:.28rem 0;
font-size:.9rem}
.bar>:first-child{overflow-wrap:anywhere;line-height:1.25}
.bar .value{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.track{position:relative;height:1rem;background:var(--track);border-radius:3px;overflow:hidden}
.fill{position:absolute;top:0;bottom:0;border-radius:2px}
.zero{position:absolute;top:0;bottom:0;width:1px;background:var(--soft)}
.chart svg{width:100%;display:block;background:var(--card)}
.axis{display:flex;justify-content:space-between;font-size:.8rem;color:var(--soft);font-variant-numeric:tabular-nums}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.85rem;margin:.3rem 0;color:var(--soft)}
.key i{display:inline-block;width:.85rem;height:.85rem;border-radius:2px;margin-right:.35rem;vertical-align:-.1rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
details{margin-top:.7rem}
summary{cursor:pointer;color:var(--accent);font-weight:600;font-size:.92rem}
a{color:var(--accent)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;font-size:.88rem;margin:.5rem 0 0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:.85rem}
@media (max-width:40rem){body{font-size:15px}main{padding:.8rem .6rem 2rem}.card{padding:.8rem}
.pictures{grid-template-columns:1fr 1fr}figure,figure.wide{grid-column:span 1}figure.peak{grid-column:span 2}
.bar{grid-template-columns:minmax(5rem,6.4rem) 1fr 6.1rem;gap:.45rem;font-size:.85rem}
dl{grid-template-columns:1fr}dd{margin-bottom:.3rem}}
@media print{.card{break-inside:avoid}}
"""
)

THEMES = f":root[data-theme=light]{{{_LIGHT};color-scheme:light}}\n:root[data-theme=dark]{{{_DARK};color-scheme:dark}}\n"
"""For pages whose reader can choose: the attribute ``data-theme`` of the root goes before what the browser prefers."""
