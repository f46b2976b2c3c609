"""The report's style sheet: system type, two accents, light and dark, phone to paper."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --sheet: #f5f6f7; --ink: #15191d; --soft: #57606a; --line: #dde1e5;
  --track: #e9ecef; --before: #a3adb6; --good: #0b6e69; --bad: #ae4a1f; --mark: #15191d;
  --good-wash: #e4f1f0; --bad-wash: #f8ebe4; --plain-wash: #eceff1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --sheet: #1b1f23; --ink: #e8ebee; --soft: #9aa5af; --line: #2c3238;
    --track: #252a30; --before: #66717c; --good: #4fb8b0; --bad: #e08a5c; --mark: #f2f4f6;
    --good-wash: #16302f; --bad-wash: #37241a; --plain-wash: #22272c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main, header { max-width: 1080px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 36px; }
.brand { font-size: 13px; letter-spacing: .04em; color: var(--soft); margin: 0 0 22px; }
.brand b { color: var(--ink); font-weight: 650; letter-spacing: 0; margin-right: 10px; }
.verdict { border-left: 4px solid var(--soft); padding: 2px 0 2px 22px; }
.verdict.all { border-color: var(--good); }
.verdict.some, .verdict.attacked-only, .verdict.none { border-color: var(--bad); }
h1 {
  font-size: 32px; line-height: 1.2; letter-spacing: -.015em; font-weight: 640; margin: 0 0 10px;
  max-width: 24em; text-wrap: balance;
}
.verdict p { margin: 0; color: var(--soft); max-width: 44em; }
section { margin: 52px 0 0; }
h2 { font-size: 19px; font-weight: 640; letter-spacing: -.005em; margin: 0 0 4px; }
h3 { font-size: 15px; font-weight: 640; margin: 0 0 8px; }
.lead { margin: 0 0 18px; color: var(--soft); max-width: 46em; font-size: 15px; }
.facts {
  display: grid; grid-template-columns: repeat(4, 1fr); gap: 0; margin: 34px 0 0; padding: 0;
  border-top: 1px solid var(--line); border-bottom: 1px solid var(--line);
}
.facts div { padding: 16px 18px 15px 0; }
.facts div + div { padding-left: 18px; border-left: 1px solid var(--line); }
.facts dt { font-size: 13px; color: var(--soft); }
.facts dd { margin: 1px 0 0; font-size: 23px; font-weight: 620; letter-spacing: -.01em; }
.facts small { display: block; font-size: 13px; line-height: 1.4; font-weight: 400;
  color: var(--soft); letter-spacing: 0; }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 22px 18px; }
.full { display: flex; flex-wrap: wrap; gap: 18px; overflow-x: auto; }
.full img { width: auto; max-width: none; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 5px; background: var(--track); }
figcaption { font-size: 14px; margin-top: 8px; line-height: 1.4; }
figcaption span { display: block; color: var(--soft); font-size: 13px; }
.prompt { font-size: 15px; margin: 0 0 18px; color: var(--soft); max-width: 46em; }
.prompt q { color: var(--ink); }
.key { display: flex; flex-wrap: wrap; gap: 6px 22px; font-size: 13px; color: var(--soft);
  margin: 0 0 6px; padding: 0; list-style: none; }
.key i { display: inline-block; width: 16px; height: 8px; margin-right: 7px; border-radius: 2px; }
.key .limit { width: 2px; height: 14px; vertical-align: -3px; border-radius: 0; background: var(--mark); }
.row { display: grid; grid-template-columns: 190px 1fr 168px; gap: 6px 24px; align-items: center;
  padding: 15px 0; border-top: 1px solid var(--line); }
.row:has(+ .axis) { border-bottom: 1px solid var(--line); }
.origin { margin: 14px 0 0; font-size: 13px; }
.name { font-weight: 600; overflow-wrap: anywhere; line-height: 1.35; }
.role { display: block; font-weight: 400; font-size: 13px; color: var(--soft); }
.role.fresh { color: var(--ink); }
.role.fresh::before { content: ""; display: inline-block; width: 7px; height: 7px; margin-right: 6px;
  border-radius: 50%; border: 2px solid var(--ink); vertical-align: 0; }
.bars { position: relative; height: 38px; }
.bars .zero { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--line); }
.bars .limit { position: absolute; top: -3px; bottom: -3px; width: 2px; margin-left: -1px;
  background: var(--mark); }
.bar { position: absolute; height: 13px; border-radius: 2px; background: var(--before); }
.bar.edited { top: 4px; }
.bar.protected { top: 21px; }
.lost .bar.protected { background: var(--good); }
.kept .bar.protected { background: var(--bad); }
.open .bar.protected { background: var(--soft); }
.number { font-size: 14px; line-height: 1.4; color: var(--soft); }
.number b { color: var(--ink); font-weight: 600; }
.state { display: block; font-weight: 600; }
.lost .state { color: var(--good); } .kept .state { color: var(--bad); }
.axis { display: grid; grid-template-columns: 190px 1fr 168px; gap: 24px; font-size: 12px;
  color: var(--soft); }
.axis div { position: relative; height: 22px; }
.axis span { position: absolute; top: 5px; transform: translateX(-50%); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 9px 16px 9px 0; border-top: 1px solid var(--line);
  vertical-align: baseline; }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: 13px; white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; }
td.value { white-space: nowrap; }
td small { color: var(--soft); font-size: 12px; display: block; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 44px; }
.two ul { margin: 0; padding: 0 0 0 1.1em; font-size: 15px; }
.two li { margin: 0 0 7px; padding-left: 2px; }
dl.settings { display: grid; grid-template-columns: max-content 1fr; gap: 5px 22px; margin: 0;
  font-size: 14px; }
dl.settings dt { color: var(--soft); }
dl.settings dd { margin: 0; overflow-wrap: anywhere; }
footer { margin: 56px 0 44px; padding-top: 16px; border-top: 1px solid var(--line); font-size: 13px;
  color: var(--soft); }
@media screen and (max-width: 720px) {
  main, header { padding: 0 18px; }
  header { padding-top: 24px; }
  h1 { font-size: 25px; }
  .verdict { padding-left: 16px; }
  section { margin-top: 42px; }
  .facts { grid-template-columns: 1fr 1fr; }
  .facts div { padding: 13px 12px 12px 0; }
  .facts div:nth-child(odd) { border-left: 0; padding-left: 0; }
  .facts div:nth-child(n + 3) { border-top: 1px solid var(--line); }
  .pictures { grid-template-columns: 1fr 1fr; gap: 18px 12px; }
  .row { grid-template-columns: 1fr auto; }
  .row .bars { grid-column: 1 / -1; grid-row: 2; }
  .row .number { text-align: right; }
  .axis { display: block; }
  .axis span:first-child { transform: none; }
  .axis span:last-child { transform: translateX(-100%); }
  .two { grid-template-columns: 1fr; gap: 34px; }
}
@media print {
  :root {
    --paper: #fff; --sheet: #fff; --ink: #000; --soft: #444; --line: #bbb; --track: #eee;
    --before: #999; --good: #0b6e69; --bad: #ae4a1f; --mark: #000;
  }
  @page { margin: 16mm; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  body { font-size: 10.5pt; }
  main, header { max-width: none; padding: 0; }
  h1 { font-size: 20pt; }
  section { margin-top: 26px; }
  .row, .axis { grid-template-columns: 150px 1fr 150px; gap: 5px 18px; }
  .row { padding: 9px 0; }
  table { font-size: 8.5pt; }
  th, td { padding: 6px 10px 6px 0; }
  td.value { white-space: normal; }
  .wide { overflow: visible; }
  figure, .row, tr, li { break-inside: avoid; }
  h2, h3, .lead { break-after: avoid; }
}
"""
