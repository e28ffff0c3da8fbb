"""The style sheet of the page: light and dark, phone to desktop, and print. The same look as the page of a preparation."""

from iquest_jax.report.markup import COLOURS

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5a6675;--line:#dde3ea;--paper:#fff;--card:#f5f7fa;--accent:#2f6fde;
--behind:#f0b5a5;--mark:#8a2be2;--mark-paper:#f1e8fc;--up:#137a3f;--up-paper:#e2f5e9;--down:#b3372b;--down-paper:#fdeae7;
--part:#8a5a00;--part-paper:#fdf1d8;--c0:#2f6fde;--c1:#d9622b;--c2:#1d9a6c;--c3:#8a4bd0;--c4:#c43f7e;--c5:#7a8a1f;
--c6:#1297b0;--c7:#8d6e55;--c8:#4e5fb8;--c9:#b98a12;--c10:#5f8f5a;--c11:#9c5f86}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9f0;--soft:#98a5b5;--line:#2c3642;--paper:#12171e;--card:#1a212b;
--accent:#6ea2f8;--behind:#7a4336;--mark:#d3adff;--mark-paper:#2e2140;--up:#6fd69a;--up-paper:#15352a;--down:#ff9a8c;
--down-paper:#40211f;--part:#efc069;--part-paper:#3a2e16;--c0:#6ea2f8;--c1:#f28d5c;--c2:#45c795;--c3:#b98cf0;--c4:#ec7cb0;
--c5:#b7c65a;--c6:#4cc5dc;--c7:#c3a58c;--c8:#98a4f0;--c9:#dfb64c;--c10:#97c792;--c11:#cf9bbd}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0 auto;padding:1.5rem clamp(1rem,4vw,3rem) 4rem;max-width:78rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:1.7rem;line-height:1.25;margin:.3rem 0 1rem;overflow-wrap:anywhere}
h1 small{display:block;font-size:.95rem;font-weight:400}
h2{font-size:1.25rem;margin:3rem 0 .8rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.6rem 0 .4rem}
h4{font-size:.9rem;margin:1rem 0 .3rem;color:var(--soft);font-weight:600}
h3 small,summary small{font-weight:400}
p,small{color:var(--soft)}
p{margin:.5rem 0;max-width:70ch}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.7rem,1fr));gap:.7rem;margin:0}
.tiles div{background:var(--card);border-radius:.6rem;padding:.7rem .9rem}
dt{color:var(--soft);font-size:.85rem}
dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tiles dd{font-size:1.2rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin-top:1.1rem;font-size:.95rem}
a{color:var(--accent);text-decoration:none}
a:hover,a:focus-visible{text-decoration:underline}
.gap{padding:.5rem .8rem;background:var(--card);border-left:3px solid var(--behind);border-radius:.3rem;font-size:.92rem;
overflow-wrap:anywhere;max-width:none}
.none{color:var(--soft);opacity:.7}
.warn{color:var(--down)}
.scrolled{overflow-x:auto;scrollbar-width:thin}
table{border-collapse:collapse;width:100%;font-size:.93rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .9rem .35rem 0;text-align:right;vertical-align:baseline;white-space:nowrap}
tbody tr{border-top:1px solid var(--line)}
th:first-child,.text{text-align:left}
thead th{color:var(--soft);font-weight:500}
tbody th{font-weight:600}
th:last-child,td:last-child{padding-right:0}
.narrow{max-width:34rem}
.bars td:last-child{width:45%}
.pair{display:inline-block;margin-right:1rem;white-space:nowrap;color:var(--soft)}
.pair b{color:var(--ink);font-weight:500}
.sticky .text{white-space:normal;min-width:7rem}
.sticky .text:has(.pair),td.text:has(.pair){min-width:15rem}
.wrapped .text{white-space:normal;min-width:14rem;overflow-wrap:anywhere;color:var(--soft)}
.sticky th:first-child{position:sticky;left:0;background:var(--paper);background-clip:padding-box;padding-right:.9rem}
.sticky tbody th:first-child{box-shadow:inset 0 1px var(--line)}
.tag{display:inline-block;padding:0 .45em;border-radius:.5em;font-size:.82em;line-height:1.55;font-weight:600;
background:var(--card);color:var(--soft);font-variant-numeric:tabular-nums}
.tag.up{background:var(--up-paper);color:var(--up)}
.tag.down{background:var(--down-paper);color:var(--down)}
.tag.part{background:var(--part-paper);color:var(--part)}
.bar{display:block;position:relative;height:.5rem;min-width:4rem;background:none}
.bar i,.bar b{position:absolute;left:0;top:0;bottom:0;border-radius:.25rem}
.bar i{background:var(--behind)}
.bar b{background:var(--accent)}
.stacked{display:grid;grid-template-columns:2.6rem 1fr;align-items:center;font-size:.85rem;color:var(--soft);
margin:.25rem 0}
.stack{display:flex;height:.9rem;border-radius:.35rem;overflow:hidden;background:var(--card);gap:1px}
.key{display:inline-block;width:.65em;height:.65em;border-radius:.2em;margin-right:.45em}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.85rem;margin:.3rem 0}
.legend span{white-space:nowrap}
.legend i{display:inline-block;width:.9em;margin-right:.4em;vertical-align:middle;border-radius:.2em}
.legend i[class^=f]{height:.7em}
.legend i[class^=l]{height:.22em}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr));gap:.9rem}
figure{margin:0;padding:.7rem .8rem .5rem;background:var(--card);border-radius:.6rem;min-width:0}
figcaption{display:flex;justify-content:space-between;gap:.8rem;font-size:.88rem;margin-bottom:.2rem}
figcaption b{overflow-wrap:anywhere;min-width:0}
figcaption span{color:var(--soft);white-space:nowrap;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto;font-family:inherit}
svg text{font-size:11px;fill:var(--soft);font-variant-numeric:tabular-nums}
.chart{overflow:visible}
.grid{stroke:var(--line);stroke-width:1;fill:none}
.band{fill:var(--card)}.b1{fill:none}
figure .band{fill:var(--paper)}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.faint{stroke-width:1.2;opacity:.75}
.tree .edge{fill:none;stroke:var(--soft);stroke-width:1.5;opacity:.6}
.tree .box{fill:var(--card);stroke:var(--line);stroke-width:1}
.tree .box.going{stroke:var(--part)}
.tree .box.ahead{fill:none;stroke:var(--soft);stroke-dasharray:4 4;opacity:.7}
.tree .state.done{fill:var(--up)}.tree .state.going{fill:var(--part)}.tree .state.ahead{fill:none;stroke:var(--soft)}
.tree .title{font-size:13px;font-weight:600;fill:var(--ink)}
.tree .small{font-size:11px}
.tree .print{font:10.5px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:var(--soft)}
.tree .chip{fill:var(--mark-paper)}
.tree .chipped{font-size:10px;font-weight:600;fill:var(--mark)}
.middle,.tall,.down{display:none}
@media(max-width:62rem){.wide,.across{display:none}.middle,.down{display:block}}
@media(max-width:46rem){.middle{display:none}.tall{display:block}}
.tree{margin:0 auto}
details{border-top:1px solid var(--line);padding:.5rem 0}
*:not(details)+details,table+.cards{margin-top:.6rem}
.scrolled+.cards{margin-top:1rem}
summary{cursor:pointer;font-weight:600}
summary::marker{color:var(--soft)}
.inputs details{padding:.3rem 0}
.inputs summary{list-style:none}
.inputs summary::-webkit-details-marker{display:none}
.row{display:grid;grid-template-columns:minmax(9rem,1.6fr) repeat(3,minmax(4.2rem,.7fr)) 2fr;gap:.9rem;align-items:center;
font-size:.93rem;font-weight:400;font-variant-numeric:tabular-nums}
.row span:not(.bar){text-align:right}
.row b{font-weight:600;overflow-wrap:anywhere}
.row>.bar>b{font-weight:400}
.row.head{color:var(--soft);padding:.2rem 0}
.row.head span:first-child{text-align:left}
.inputs details{margin:0}
.inputs .row:not(.head)>b{position:relative;padding-left:1rem}
.inputs .row:not(.head)>b::before{content:"";position:absolute;left:0;top:.5em;border:solid var(--soft);
border-width:0 1.5px 1.5px 0;padding:.14em;transform:rotate(-45deg)}
.inputs details[open] .row>b::before{transform:rotate(45deg)}
@media(max-width:40rem){.sticky .text:has(.pair){min-width:10rem}.pair{display:block;margin:0}}
@media(max-width:40rem){.row{grid-template-columns:minmax(7rem,1fr) repeat(3,minmax(2.9rem,auto));gap:.5rem;
font-size:.88rem}
.row>:last-child{display:none}}
.filter{border:0;margin:.5rem 0;padding:0;display:flex;flex-wrap:wrap;gap:.35rem}
.filter input{position:absolute;opacity:0}
.filter span{display:inline-block;padding:.12rem .7rem;border:1px solid var(--line);border-radius:1rem;font-size:.85rem;
cursor:pointer;color:var(--soft)}
.filter input:checked+span{background:var(--accent);border-color:var(--accent);color:var(--paper)}
.filter input:focus-visible+span{outline:2px solid var(--accent);outline-offset:2px}
.browser:has(#end0:checked) .sample:not(.yes),.browser:has(#end1:checked) .sample:not(.no){display:none}
.sample{margin:0!important}
h3.sample{margin:1.6rem 0 .4rem!important}
.sample summary{display:grid;grid-template-columns:3.2rem minmax(0,1fr) auto;gap:.7rem;align-items:baseline;list-style:none}
.sample summary::-webkit-details-marker{display:none}
.sample summary .tag{text-align:center}
.asked{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-weight:400}
.sample[open] .asked{font-weight:600}
@media(max-width:46rem){.sample summary{grid-template-columns:3.2rem minmax(0,1fr);row-gap:0}
.sample summary small{grid-column:2}
.asked{white-space:normal;display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:2}}
.said{margin:.6rem 0}
h5{margin:0 0 .15rem;font-size:.78rem;font-weight:600;color:var(--soft);text-transform:uppercase;letter-spacing:.04em}
pre{margin:0;padding:.7rem .9rem;background:var(--card);color:var(--ink);border-radius:.5rem;overflow:auto;max-height:26rem;
white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;tab-size:4;
font:.84rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.thinking pre{border-left:3px solid var(--c3);color:var(--soft)}
.assistant pre{border-left:3px solid var(--accent)}
.tool pre,.call pre{border-left:3px solid var(--c5)}
hr{border:0;margin:.2rem 0}
.facts{display:flex;flex-wrap:wrap;gap:.3rem 1.6rem;margin:.6rem 0;font-size:.9rem}
.tests{margin:.4rem 0 1rem;padding-left:1.2rem;color:var(--soft);font-size:.9rem;overflow-wrap:anywhere}
mark{background:var(--mark-paper);color:var(--mark);border-radius:.2rem;padding:0 .15em}
@media print{:root{--ink:#000;--soft:#444;--line:#ddd;--paper:#fff;--card:#f4f4f4;--mark-paper:#eee;--mark:#000}
html{font-size:11.5px}body{max-width:none;padding:0;font-size:1rem}nav,.filter{display:none}pre{max-height:none}.scrolled{overflow:visible}
tr,figure,.chart,.tree{break-inside:avoid}h2,h3,h4{break-after:avoid}.middle,.across{display:block}.wide,.tall,.down{display:none}
details:not(.sample)::details-content{content-visibility:visible;block-size:auto}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""" + ''.join(
    f'.f{number},i.l{number}{{background:var(--c{number})}}.l{number}{{stroke:var(--c{number})}}'
    f'.d{number}{{fill:var(--c{number})}}'
    for number in range(COLOURS)
)
