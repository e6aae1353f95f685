"""What the page of a dissection adds to the look of pages."""

from __future__ import annotations

from .style import PAGE_STYLE

DISSECTION_STYLE = (
    PAGE_STYLE
    + """
:root{--shared:#009e73}
@media (prefers-color-scheme:dark){:root{--shared:#2fc79b}}
main.wide{max-width:84rem;padding-top:.9rem}
.answers{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:1rem;align-items:stretch;margin:.7rem 0 1rem}
.answers .card{margin:0;border-top:4px solid var(--accent);padding:.8rem 1rem}
.answers h2{font-size:1.05rem}
.answers p{font-size:.92rem;line-height:1.42}
.answers p.lead{font-size:1rem;font-weight:600}
.tight{margin:.55rem 0 .15rem!important}
.bar.three{grid-template-columns:minmax(4rem,6.6rem) 1fr 3.6rem;margin:.22rem 0;font-size:.86rem}
.bar.three>:first-child{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.bar.small{font-size:.78rem;color:var(--soft)}
.bar.small .track{height:.55rem}
.stack{display:flex;height:1.15rem;border-radius:3px;overflow:hidden;background:var(--track)}
.stack .part{color:#fff;font-size:.74rem;line-height:1.15rem;text-align:center;min-width:0;overflow:hidden;
border-right:2px solid var(--card);font-weight:600}
@media (prefers-color-scheme:dark){.stack .part{color:#111}}
.floor{position:absolute;top:0;bottom:0;width:2px;background:var(--ink)}
svg.lines{width:100%;display:block;max-width:26rem}
svg.lines text{font-size:11px;fill:var(--soft)}
svg.mark{width:.9rem;height:.9rem;vertical-align:-.12rem;margin-right:.3rem}
table.heat{width:auto;font-size:.8rem;font-variant-numeric:tabular-nums}
table.heat td{text-align:center;padding:.2rem .35rem;min-width:2.9rem;border:1px solid var(--card);white-space:nowrap}
table.heat th{padding:.2rem .5rem .2rem 0;white-space:nowrap;vertical-align:bottom;border:0;max-width:16rem;overflow:hidden;
text-overflow:ellipsis}
table.heat th.turned{padding:.2rem .1rem;text-align:center;white-space:normal;line-height:1.15;
font-size:.74rem;max-width:4.2rem}
td.below{color:var(--soft)}
td.found{font-weight:700;outline:2px solid var(--ink);outline-offset:-2px}
.units{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:.9rem 1.2rem;margin:.6rem 0}
.unit .row{display:grid;grid-template-columns:repeat(4,1fr);gap:.25rem}
.unit img{width:100%;display:block;border-radius:4px;image-rendering:pixelated}
.unit p{font-size:.84rem;line-height:1.3}
@media (max-width:60rem){.answers{grid-template-columns:1fr}}
@media (max-width:40rem){.scroll table:not(.heat){min-width:36rem}table.heat th{white-space:normal;max-width:6.5rem}
table.heat td{min-width:2.5rem;padding:.2rem .2rem}.units{grid-template-columns:1fr}svg.lines text{font-size:12px}}
"""
)
