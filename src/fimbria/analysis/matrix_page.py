"""The parts of a matrix's page that are the same for every matrix."""

from __future__ import annotations

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>@title@</title>
<style>
@style@</style>
<header>
<h1>@title@</h1>
<ul id="legend">
<li><svg width="14" height="14" class="matrix"><path class="all" d="M0 0h13v13h-13z"/></svg>
every port</li>
<li><svg width="14" height="14" class="matrix"><rect class="ground" width="13" height="13"/>
<path class="some" d="M0 0v13h13z"/></svg> some ports</li>
<li><svg width="14" height="14" class="matrix"><rect class="ground" width="13" height="13"/></svg>
no port</li>
<li><svg width="14" height="14" class="matrix"><rect width="13" height="13" fill="#fff"
stroke="#98a2ad"/></svg> no policy can be about it</li>
<li><svg width="14" height="14" class="matrix"><path class="all" d="M0 0h13v13h-13z"/>
<circle class="proxy" cx="6.5" cy="6.5" r="3"/></svg> by a proxy</li>
</ul>
<label>Only port <input id="port" list="ports" placeholder="443, 53/UDP: all" size="16"></label>
<datalist id="ports"></datalist>
<span id="count" role="status"></span>
</header>
<main>
<div id="view">@picture@</div>
<aside id="cell" aria-live="polite"><p>Point at a cell, or use the arrow keys. A click or Enter
keeps it here.</p></aside>
</main>
<script id="data" type="application/json">@data@</script>
<script>
@script@</script>
</html>
"""

STYLE = """\
html, body { margin: 0; height: 100%; background: #fff; color: #1b1f24;
  font: 14px/1.4 ui-sans-serif, system-ui, sans-serif }
body { display: flex; flex-direction: column }
header { display: flex; flex-wrap: wrap; gap: .4em 1.6em; align-items: center;
  padding: .5em 1em; border-bottom: 1px solid #c9d1d9 }
h1 { font-size: 1.15em; margin: 0 }
#legend { display: flex; flex-wrap: wrap; gap: .3em 1.2em; list-style: none; margin: 0; padding: 0 }
#legend svg { vertical-align: -2px }
main { flex: 1; display: flex; min-height: 0 }
#view { flex: 1; overflow: auto; padding: 8px }
#picture:focus { outline: none }
#cell { width: 25em; overflow: auto; padding: .6em 1em; border-left: 1px solid #c9d1d9;
  background: #f7f9fa }
#cell h2 { font-size: 1.05em; margin: .2em 0; overflow-wrap: anywhere }
#cell h3 { font-size: 1em; margin: 1em 0 .1em }
#cell dl { margin: 0 } #cell dt { color: #57606a; font-size: .9em }
#cell dd { margin: 0 0 .3em; white-space: pre-wrap; overflow-wrap: anywhere }
#cross { pointer-events: none }
#cross rect { fill: none }
#cross #row, #cross #column { fill: #1b1f24; opacity: .1 }
#cross #spot { stroke: #d1242f; stroke-width: 2.5 }
"""

SCRIPT = """\
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const byId = id => document.getElementById(id);
const picture = byId('picture'), pane = byId('cell'), {left, top: above, cell, at} = data;
const has = (digits, number) => parseInt(digits[number >> 2], 16) >> (number & 3) & 1;
const verdicts = {A: 'passes', D: 'denied', R: 'passes, by a proxy'};
let only = null, wanted = '', place = null, pinned = false;

function state(pattern) {
  const [passes, possible, redirects] = data.patterns[pattern];
  if (only === null) {
    if (!/[^0]/.test(possible)) return ['never', false];
    const name = passes === possible ? 'all' : /[^0]/.test(passes) ? 'some' : 'none';
    return [name, /[^0]/.test(redirects)];
  }
  const could = only.filter(one => has(possible, one));
  if (!could.length) return ['never', false];
  const open = could.filter(one => has(passes, one));
  const name = open.length === could.length ? 'all' : open.length ? 'some' : 'none';
  return [name, open.some(one => has(redirects, one))];
}

function draw() {
  const inner = cell - 1, paths = {all: [], some: [], never: [], none: [], proxy: []};
  const states = data.patterns.map((_, number) => state(number));
  const radius = cell / 5;
  data.cells.forEach((row, y) => row.forEach((pattern, x) => {
    const [name, proxy] = states[pattern], start = `M${left + at[x]} ${above + at[y]}`;
    paths[name].push(name === 'some' ? `${start}v${inner}h${inner}z`
      : `${start}h${inner}v${inner}h-${inner}z`);
    if (proxy) paths.proxy.push(`M${left + at[x] + cell / 2 - radius - .5} ` +
      `${above + at[y] + cell / 2 - .5}a${radius} ${radius} 0 1 0 ${2 * radius} 0` +
      `a${radius} ${radius} 0 1 0 -${2 * radius} 0`);
  }));
  for (const name of ['all', 'some', 'never', 'proxy'])
    picture.querySelector(`path.${name}`).setAttribute('d', paths[name].join(''));
  byId('count').textContent =
    `${paths.all.length} open, ${paths.some.length} in part, ${paths.none.length} closed`;
}

function add(parent, tag, text) {
  const made = parent.appendChild(document.createElement(tag));
  made.textContent = text;
  return made;
}

function show(y, x) {
  place = [y, x];
  const size = at[at.length - 1] + cell;
  const set = (id, rx, ry, width, height) => Object.entries({x: rx, y: ry, width, height})
    .forEach(([key, value]) => byId(id).setAttribute(key, value));
  set('row', 0, above + at[y], left + size, cell - 1);
  set('column', left + at[x], 0, cell - 1, above + size);
  set('spot', left + at[x] - 1, above + at[y] - 1, cell + 1, cell + 1);
  pane.replaceChildren();
  const pattern = data.cells[y][x], [name] = state(pattern);
  add(pane, 'h2', `${data.ends[y]} \\u2192 ${data.ends[x]}`);
  const said = only === null
    ? {all: 'Every port passes.', none: 'Nothing passes.',
      some: `Passes: ${data.ports[pattern]}.`}
    : {all: `${wanted} passes.`, none: `${wanted} does not pass.`,
      some: `${wanted} passes in part: ${data.ports[pattern]}.`};
  add(pane, 'p', said[name] || 'No policy can be about this.');
  const reasons = data.why[y][x] < 0 ? [] : data.reasons[data.why[y][x]];
  for (const [ports, verdict, egress, ingress] of reasons) {
    add(pane, 'h3', `${ports}: ${verdicts[verdict]}`);
    const list = pane.appendChild(document.createElement('dl'));
    add(list, 'dt', 'out of the source'); add(list, 'dd', data.halves[egress]);
    add(list, 'dt', 'into the destination'); add(list, 'dd', data.halves[ingress]);
  }
}

function under(event) {
  const box = picture.getBoundingClientRect();
  const find = offset => at.findIndex(start => offset >= start && offset < start + cell);
  const y = find(event.clientY - box.top - above), x = find(event.clientX - box.left - left);
  return y < 0 || x < 0 ? null : [y, x];
}

picture.addEventListener('pointermove', event => {
  const found = under(event);
  if (found && !pinned && String(found) !== String(place)) show(...found);
});
picture.addEventListener('click', event => {
  const found = under(event);
  pinned = found !== null && !(pinned && String(found) === String(place));
  if (found) show(...found);
});
picture.addEventListener('keydown', event => {
  const [dy, dx] = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
    ArrowRight: [0, 1]}[event.key] || [0, 0];
  if (event.key === 'Enter') pinned = !pinned;
  if (event.key === 'Escape') pinned = false;
  if (!dy && !dx) return;
  event.preventDefault();
  const last = data.ends.length - 1, clamp = n => Math.max(0, Math.min(last, n));
  const [y, x] = place || [0, 0];
  show(place ? clamp(y + dy) : 0, place ? clamp(x + dx) : 0);
  byId('spot').scrollIntoView({block: 'center', inline: 'center'});
});
byId('port').addEventListener('input', event => {
  const found = /^\\s*(\\d+)?\\s*[\\/ ]?\\s*([a-z]\\w*)?\\s*(\\d+)?/i.exec(event.target.value);
  const number = found[1] || found[3], protocol = (found[2] || 'tcp').toLowerCase();
  wanted = event.target.value.trim();
  only = wanted === '' ? null : [...data.atoms.keys()].filter(one => {
    const [, name, first, last] = data.atoms[one];
    return name === protocol && (number === undefined || (first <= +number && +number <= last));
  });
  draw();
  if (place) show(...place);
});
const view = byId('view');
view.addEventListener('scroll', () => {
  const x = Math.max(0, view.scrollLeft - 8), y = Math.max(0, view.scrollTop - 8);
  byId('sources').setAttribute('transform', `translate(${x} 0)`);
  byId('targets').setAttribute('transform', `translate(0 ${y})`);
  byId('corner').setAttribute('transform', `translate(${x} ${y})`);
}, {passive: true});
for (const [, protocol, first, last] of data.atoms)
  if (first === last && protocol !== 'other')
    byId('ports').appendChild(document.createElement('option')).value =
      `${first}/${protocol.toUpperCase()}`;
draw();
"""
