"use strict";
// The tree page: an outline, a drawing, the line of play, a node's detail, and a timeline.
//
// All text of models reaches the page as text nodes. State that matters is in the address.
const { html, render, useState, useEffect, useMemo, useRef, useCallback } = htmPreact;

const ROW = 22;
const CRITICS = ["value", "process", "outcome"];
const place = document.getElementById("tree");
const root = place.dataset.root;
const id = place.dataset.search;
const inlined = document.getElementById("tree-data");

const round = (x, digits = 3) => (x == null ? "-" : Number(x).toFixed(digits));
const small = (x) => (x == null ? "-" : x >= 0.01 ? x.toFixed(2) : x.toExponential(1));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Rows of the tree: children, N and W after so many simulations. */
function built(data, upTo) {
  const size = data.ix.length;
  const place = new Map(data.ix.map((ix, i) => [ix, i]));
  const parent = data.parent.map((p) => (p == null ? -1 : place.get(p)));
  let n = data.n;
  let w = data.w;
  if (upTo < data.leaf.length) {
    n = new Array(size).fill(0);
    w = new Array(size).fill(0);
    for (let s = 0; s < upTo; s++) {
      for (let at = place.get(data.leaf[s]); at >= 0; at = parent[at]) {
        n[at] += 1;
        w[at] += data.backed[s];
      }
    }
  }
  const children = Array.from({ length: size }, () => []);
  for (let i = 0; i < size; i++) if (parent[i] >= 0) children[parent[i]].push(i);
  const q = n.map((count, i) => (count ? w[i] / count : null));
  return { data, size, parent, children, n, w, q, place, upTo };
}

function sorted(tree, list, order) {
  const { n, q, data } = tree;
  const key = { N: (i) => n[i], Q: (i) => q[i] ?? -1, P: (i) => data.p[i] ?? 0 }[order];
  return [...list].sort((a, b) => key(b) - key(a) || data.ix[a] - data.ix[b]);
}

/** Most visited line below the root, and the second-best first step's line. */
function lines(tree) {
  const follow = (start) => {
    const found = [start];
    for (let at = start; ; ) {
      const next = tree.children[at].filter((c) => tree.n[c] > 0);
      if (!next.length) return found;
      at = next.reduce((a, b) => (tree.n[b] > tree.n[a] ? b : a));
      found.push(at);
    }
  };
  const firsts = sorted(tree, tree.children[0] ?? [], "N").filter((c) => tree.n[c] > 0);
  return { best: firsts.length ? follow(firsts[0]) : [], second: firsts[1] ? follow(firsts[1]) : [] };
}

function disagreement(data, i) {
  const found = CRITICS.map((c) => data[`${c}_score`][i]).filter((x) => x != null);
  return found.length > 1 ? Math.max(...found) - Math.min(...found) : 0;
}

/** The rows of the outline: open nodes, and one row for what is folded or filtered away. */
function visible(tree, open, view) {
  const rows = [];
  const words = view.words.toLowerCase();
  const hit = (i) =>
    (!words || tree.data.label[i].toLowerCase().includes(words)) &&
    disagreement(tree.data, i) >= view.disagree;
  const filtered = words || view.disagree > 0;
  const wanted = filtered ? new Uint8Array(tree.size) : null;
  if (filtered)
    for (let i = 0; i < tree.size; i++)
      if (hit(i)) for (let at = i; at >= 0 && !wanted[at]; at = tree.parent[at]) wanted[at] = 1;
  const stack = [[0, 1, 1, 1]];
  while (stack.length) {
    const [i, level, position, count] = stack.pop();
    if (i < 0) {
      rows.push({ folded: -i, level, i: -1 });
      continue;
    }
    const below = tree.children[i];
    const isOpen = filtered ? true : open.has(i);
    rows.push({ i, level, position, count, isOpen, hasChildren: below.length > 0 });
    if (!below.length || !isOpen || level > view.depth) continue;
    const shown = sorted(tree, below, view.sort).filter(
      (c) => tree.n[c] >= view.least && (!wanted || wanted[c]),
    );
    if (shown.length < below.length) stack.push([-(below.length - shown.length), level + 1, 0, 0]);
    for (let k = shown.length - 1; k >= 0; k--) stack.push([shown[k], level + 1, k + 1, shown.length]);
  }
  return rows;
}

function Outline({ tree, rows, selected, select, toggle, best }) {
  const box = useRef(null);
  const typed = useRef({ text: "", at: 0 });
  const [top, setTop] = useState(0);
  const line = new Set(best);
  const here = rows.findIndex((r) => r.i === selected);
  const first = Math.max(0, Math.floor(top / ROW) - 10);
  const part = rows.slice(first, first + Math.ceil(416 / ROW) + 20);
  useEffect(() => {
    if (here < 0 || !box.current) return;
    const y = here * ROW;
    const { scrollTop, clientHeight } = box.current;
    if (y < scrollTop || y + ROW > scrollTop + clientHeight)
      box.current.scrollTop = y - clientHeight / 2;
  }, [selected]);
  const go = (k) => {
    for (const step of [0, 1, -1])
      if (rows[k + step] && rows[k + step].i >= 0) return select(rows[k + step].i);
  };
  const onKey = (event) => {
    const row = rows[here];
    const next = (by) => {
      let k = here + by;
      while (rows[k] && rows[k].i < 0) k += by;
      if (rows[k]) select(rows[k].i);
    };
    const moves = {
      ArrowDown: () => next(1),
      ArrowUp: () => next(-1),
      Home: () => go(0),
      End: () => go(rows.length - 1),
      ArrowRight: () => (row?.hasChildren && !row.isOpen ? toggle(row.i) : next(1)),
      ArrowLeft: () =>
        row?.isOpen && row.hasChildren ? toggle(row.i) : row && tree.parent[row.i] >= 0 && select(tree.parent[row.i]),
      Enter: () => row && toggle(row.i),
    };
    if (moves[event.key]) {
      moves[event.key]();
      event.preventDefault();
    } else if (event.key.length === 1 && !event.ctrlKey && !event.metaKey) {
      const now = Date.now();
      typed.current = { text: (now - typed.current.at < 700 ? typed.current.text : "") + event.key, at: now };
      const wanted = typed.current.text.toLowerCase();
      const order = [...rows.slice(here + 1), ...rows.slice(0, here + 1)];
      const found = order.find((r) => r.i >= 0 && tree.data.label[r.i].toLowerCase().startsWith(wanted));
      if (found) select(found.i);
    }
  };
  return html`<div class="outline" ref=${box} role="tree" tabindex="0" aria-label="The search's tree"
      aria-activedescendant=${here >= 0 ? `row-${selected}` : undefined}
      onScroll=${(e) => setTop(e.target.scrollTop)} onKeyDown=${onKey}>
    <div class="inner" role="none" ref=${(e) => e && (e.style.height = `${rows.length * ROW}px`)}>
      ${part.map((r, k) => html`<${OutlineRow} key=${r.i < 0 ? `f${first + k}` : r.i} row=${r} y=${(first + k) * ROW}
        tree=${tree} isSelected=${r.i === selected} isBest=${line.has(r.i)} select=${select} toggle=${toggle} />`)}
    </div></div>`;
}

function OutlineRow({ row, y, tree, isSelected, isBest, select, toggle }) {
  const put = (e) => {
    if (e) {
      e.style.top = `${y}px`;
      e.style.paddingLeft = `${row.level * 12}px`;
    }
  };
  if (row.i < 0)
    return html`<div class="row" role="none" ref=${put}><span class="figures">+${row.folded} hidden</span></div>`;
  const { data, n, q } = tree;
  const i = row.i;
  const name = `${data.label[i]}, N ${n[i]}, Q ${round(q[i], 2)}`;
  return html`<div class="row" id=${`row-${i}`} role="treeitem" ref=${put} aria-label=${name} aria-level=${row.level}
      aria-posinset=${row.position} aria-setsize=${row.count} aria-selected=${isSelected}
      aria-expanded=${row.hasChildren ? row.isOpen : undefined} onClick=${() => select(i)} onDblClick=${() => toggle(i)}>
    <span class="twist" aria-hidden="true" onClick=${(e) => { e.stopPropagation(); toggle(i); }}>${row.hasChildren ? (row.isOpen ? "▾" : "▸") : ""}</span>
    <span class=${data.unsound[i] ? "refuted" : isBest ? "pv" : ""}>${data.label[i] || "(empty)"}</span>
    <span class="figures">  N ${n[i]}  Q ${round(q[i], 2)}  P ${small(data.p[i])}  V ${round(data.value[i], 2)}${data.unsound[i] ? "  refuted" : ""}</span></div>`;
}

/** Positions of the open nodes, by d3-hierarchy's tidy tree. */
const LEVEL = 90; // between two depths, before it is scaled
const LETTER = 6.7; // of the labels

function laidOut(tree, rows) {
  const shown = rows.filter((r) => r.i >= 0).map((r) => r.i);
  const inside = new Set(shown);
  const nested = (i) => ({ i, children: tree.children[i].filter((c) => inside.has(c)).map(nested) });
  const top = d3.tree().nodeSize([18, LEVEL])(d3.hierarchy(nested(0)));
  const nodes = top.descendants().map((d) => ({ i: d.data.i, x: d.y, y: d.x, up: d.parent?.data.i }));
  const deepest = nodes.reduce((most, d) => Math.max(most, d.x), 0);
  const at = new Map(nodes.map((d) => [d.i, d]));
  const byColumn = new Map();
  for (const d of nodes) {
    if (!byColumn.has(d.x)) byColumn.set(d.x, []);
    byColumn.get(d.x).push(d);
  }
  for (const column of byColumn.values()) column.sort((a, b) => a.y - b.y);
  return { nodes, at, byColumn, deepest };
}

function mixed(q) {
  // Orange to blue through grey: told apart by all common kinds of sight.
  if (q == null) return "transparent";
  const low = [179, 88, 6];
  const high = [33, 102, 172];
  const grey = [222, 222, 222];
  const [a, b, t] = q < 0.5 ? [low, grey, q * 2] : [grey, high, q * 2 - 1];
  return `rgb(${a.map((x, k) => Math.round(x + (b[k] - x) * t)).join(",")})`;
}

function Graph({ tree, rows, selected, select, best }) {
  const canvas = useRef(null);
  const view = useRef({ x: 30, y: 208, scale: 0, drag: null });
  const layout = useMemo(() => laidOut(tree, rows), [tree, rows]);
  const line = useMemo(() => new Set([0, ...best]), [best]);
  const draw = useCallback(() => {
    const element = canvas.current;
    if (!element) return;
    const ratio = devicePixelRatio || 1;
    const width = element.clientWidth;
    const height = element.clientHeight;
    if (element.width !== width * ratio || element.height !== height * ratio) {
      element.width = width * ratio;
      element.height = height * ratio;
    }
    if (!view.current.scale) {
      // At first the whole tree, unless that makes it too small to read.
      let [low, high] = [0, 0];
      const deepest = Math.max(1, layout.deepest);
      for (const d of layout.nodes) {
        low = Math.min(low, d.y);
        high = Math.max(high, d.y);
      }
      const fits = Math.min((width - 120) / deepest, (height - 40) / Math.max(1, high - low));
      const scale = Math.min(1, Math.max(0.4, fits));
      const middle = fits < 0.4 ? 0 : ((low + high) / 2) * scale;
      Object.assign(view.current, { scale, y: height / 2 - middle });
    }
    const pen = element.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const { x, y, scale } = view.current;
    const soft = colour("--soft");
    const ink = colour("--ink");
    const wrong = colour("--wrong");
    const most = Math.max(1, tree.n[0]);
    pen.lineCap = "round";
    for (const d of layout.nodes) {
      const up = d.up == null ? null : layout.at.get(d.up);
      if (!up) continue;
      const [ax, ay, bx, by] = [up.x * scale + x, up.y * scale + y, d.x * scale + x, d.y * scale + y];
      if (bx < 0 || ax > width || Math.max(ay, by) < 0 || Math.min(ay, by) > height) continue;
      pen.strokeStyle = line.has(d.i) ? ink : soft;
      pen.lineWidth = 0.5 + 4 * (tree.data.p[d.i] ?? 0);
      pen.beginPath();
      pen.moveTo(ax, ay);
      pen.bezierCurveTo((ax + bx) / 2, ay, (ax + bx) / 2, by, bx, by);
      pen.stroke();
    }
    pen.font = "11px ui-monospace, monospace";
    for (const d of layout.nodes) {
      const [px, py] = [d.x * scale + x, d.y * scale + y];
      if (px < -20 || px > width + 20 || py < -20 || py > height + 20) continue;
      const size = (2 + 7 * Math.sqrt(tree.n[d.i] / most)) * Math.min(1.5, Math.max(0.5, scale));
      pen.beginPath();
      pen.arc(px, py, size, 0, 2 * Math.PI);
      pen.fillStyle = mixed(tree.q[d.i]);
      pen.fill();
      pen.lineWidth = d.i === selected ? 3 : 1.5;
      pen.strokeStyle = tree.data.unsound[d.i] ? wrong : d.i === selected ? ink : mixed(tree.data.value[d.i] ?? 0.5);
      pen.stroke();
      if (tree.data.unsound[d.i]) {
        pen.beginPath();
        pen.moveTo(px - size, py - size);
        pen.lineTo(px + size, py + size);
        pen.stroke();
      }
      if (scale > 0.75) {
        pen.fillStyle = ink;
        // A label ends before the next column begins; behind the last one there is room.
        const most = d.x < layout.deepest ? Math.floor((LEVEL * scale - 2 * size - 6) / LETTER) : 24;
        const label = tree.data.label[d.i];
        pen.fillText(label.length > most ? `${label.slice(0, most - 1)}…` : label, px + size + 2, py - 3);
      }
    }
  }, [layout, selected, tree, line]);
  useEffect(() => {
    const frame = requestAnimationFrame(draw);
    addEventListener("resize", draw);
    return () => {
      cancelAnimationFrame(frame);
      removeEventListener("resize", draw);
    };
  }, [draw]);
  const later = () => requestAnimationFrame(draw);
  const found = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const { x, y, scale } = view.current;
    const [px, py] = [(event.clientX - box.left - x) / scale, (event.clientY - box.top - y) / scale];
    const column = layout.byColumn.get(Math.round(px / 90) * 90);
    if (!column) return null;
    let low = 0;
    let high = column.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (column[middle].y < py) low = middle + 1;
      else high = middle;
    }
    const near = [column[low - 1], column[low]].filter(Boolean);
    const d = near.sort((a, b) => Math.abs(a.y - py) - Math.abs(b.y - py))[0];
    return d && Math.hypot(d.x - px, d.y - py) < 14 ? d.i : null;
  };
  const zoom = (factor, cx, cy) => {
    const v = view.current;
    const scale = Math.min(4, Math.max(0.05, v.scale * factor));
    v.x = cx - ((cx - v.x) * scale) / v.scale;
    v.y = cy - ((cy - v.y) * scale) / v.scale;
    v.scale = scale;
    later();
  };
  const onWheel = (e) => {
    e.preventDefault();
    const box = canvas.current.getBoundingClientRect();
    zoom(Math.exp(-e.deltaY / 400), e.clientX - box.left, e.clientY - box.top);
  };
  const onDown = (e) => {
    view.current.drag = [e.clientX, e.clientY, false];
    canvas.current.setPointerCapture(e.pointerId);
  };
  const onMove = (e) => {
    const v = view.current;
    if (!v.drag) return;
    v.x += e.clientX - v.drag[0];
    v.y += e.clientY - v.drag[1];
    v.drag = [e.clientX, e.clientY, v.drag[2] || Math.hypot(e.movementX, e.movementY) > 2];
    later();
  };
  const onUp = (e) => {
    const moved = view.current.drag?.[2];
    view.current.drag = null;
    if (!moved) {
      const i = found(e);
      if (i != null) select(i);
    }
  };
  const save = () => {
    const link = document.createElement("a");
    link.download = `search-${id}.png`;
    link.href = canvas.current.toDataURL("image/png");
    link.click();
  };
  return html`<div><canvas class="graph" ref=${canvas} role="img"
      aria-label="The tree as a drawing; the outline has the same nodes" onWheel=${onWheel}
      onPointerDown=${onDown} onPointerMove=${onMove} onPointerUp=${onUp}></canvas>
    <div class="controls"><button onClick=${() => zoom(1.4, 200, 208)}>larger</button>
      <button onClick=${() => zoom(1 / 1.4, 200, 208)}>smaller</button><button onClick=${save}>save as PNG</button>
      <small>size N · fill Q (orange 0, blue 1) · border V · width P · struck out: refuted</small></div></div>`;
}

function Strip({ tree, name, line, select, selected }) {
  if (!line.length) return null;
  return html`<div><h2>${name}</h2><ol class="strip">${line.map((i) => html`<li key=${i}>
    <button aria-current=${i === selected} onClick=${() => select(i)}>${tree.data.label[i]} <small>N ${tree.n[i]} Q ${round(tree.q[i], 2)}</small></button></li>`)}</ol></div>`;
}

function Timeline({ data, upTo, setUpTo }) {
  const holder = useRef(null);
  const plot = useRef(null);
  const curve = useMemo(() => {
    let sum = 0;
    return data.backed.map((v, k) => (sum += v) / (k + 1));
  }, [data]);
  useEffect(() => {
    if (!holder.current || curve.length < 2) return;
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line") } };
    plot.current = new uPlot(
      {
        width: holder.current.clientWidth || 700,
        height: 130,
        scales: { x: { time: false }, y: { range: [0, 1] } },
        series: [
          { label: "simulation" },
          { label: "value backed up", stroke: colour("--low"), points: { show: true, size: 3 }, paths: () => null },
          { label: "root's Q", stroke: colour("--high"), width: 2 },
        ],
        axes: [axis, axis],
      },
      [curve.map((_, k) => k + 1), data.backed, curve],
      holder.current,
    );
    return () => plot.current.destroy();
  }, [data]);
  const most = data.leaf.length;
  if (!most) return html`<p>The log of this search is gone: it was trimmed, or nothing was evaluated.</p>`;
  return html`<div><div class="controls"><label>after simulation
    <input type="range" min="0" max=${most} value=${upTo} onInput=${(e) => setUpTo(Number(e.target.value))} /></label>
    <output>${upTo} of ${most}</output></div><div ref=${holder}></div></div>`;
}

function differences(before, after) {
  return Diff.diffWordsWithSpace(before, after).map((part, k) =>
    part.added ? html`<ins key=${k}>${part.value}</ins>` : part.removed ? html`<del key=${k}>${part.value}</del>` : html`<span key=${k}>${part.value}</span>`,
  );
}

function Detail({ tree, i, select, meta }) {
  const { data } = tree;
  const ix = data.ix[i];
  const [node, setNode] = useState(null);
  const [tokens, setTokens] = useState(null);
  useEffect(() => {
    setNode(null);
    setTokens(null);
    if (inlined) {
      setNode(JSON.parse(inlined.textContent).nodes[String(ix)] ?? null);
      return;
    }
    const stop = new AbortController();
    fetch(`${root}/api/searches/${id}/nodes/${ix}`, { signal: stop.signal })
      .then((r) => r.json())
      .then(setNode)
      .catch(() => {});
    return () => stop.abort();
  }, [ix]);
  const ask = () =>
    fetch(`${root}/api/searches/${id}/nodes/${ix}/tokens`)
      .then((r) => r.json())
      .then((found) => setTokens(found.error ? found.error.message : found.tokens))
      .catch(() => setTokens("the server does not answer"));
  const siblings = tree.parent[i] >= 0 ? sorted(tree, tree.children[tree.parent[i]].filter((s) => s !== i), "N").slice(0, 6) : [];
  const up = tree.parent[i];
  const nUp = up >= 0 ? tree.n[up] : null;
  const c = meta.search_config.exploration ?? 1;
  const explore = up >= 0 ? (c * (data.p[i] ?? 0) * Math.sqrt(Math.max(1, nUp))) / (1 + tree.n[i]) : null;
  return html`<div><h2>Node ${ix}</h2>
    <dl class="facts"><dt>N</dt><dd>${tree.n[i]}</dd><dt>Q</dt><dd>${round(tree.q[i])}</dd><dt>P</dt><dd>${small(data.p[i])}</dd>
      <dt>V</dt><dd>${round(data.value[i])}</dd><dt>ended</dt><dd>${data.stop[i] ?? "-"}</dd>
      ${CRITICS.map((k) => html`<dt>${k}</dt><dd><${Bar} value=${data[`${k}_score`][i]} /></dd>`)}
      ${node?.unsound && html`<dt>tool</dt><dd class="wrong">${node.unsound}</dd>`}</dl>
    ${up >= 0 && html`<p><small>why it was taken: Q + c · P · √N(parent) / (1 + N) = ${round(tree.q[i] ?? 0, 2)} + ${c} · ${small(data.p[i])} · √${nUp} / ${1 + tree.n[i]} = ${round((tree.q[i] ?? 0) + explore)}${meta.search_config.leaves === "texts" ? "; while it searched, P was what was still to explore of it" : ""}</small></p>`}
    <pre>${node ? node.text : data.label[i]}</pre>
    ${node && html`<details><summary>All text up to here</summary><pre>${node.path.map((p) => p.text).join("")}</pre></details>
      ${node.scores.length > 0 && html`<details><summary>What the critics were asked and said</summary><ul>${node.scores.map((s) => html`<li>${s.critic} ${s.version}: ${s.score == null ? "no score" : round(s.score)} ${s.reason}</li>`)}</ul></details>`}
      ${node.pairs.map((p) => html`<p>${p.as} in a preference pair with node ${p.other}: margin ${round(p.margin)}, ${p.reason}</p>`)}`}
    ${!inlined && (tokens == null ? html`<button onClick=${ask}>tokens with log-probabilities</button>` : typeof tokens === "string" ? html`<p>${tokens}</p>` : html`<table><caption>Tokens under the policy of now</caption><tbody><tr>${tokens.map((t) => html`<td><code>${JSON.stringify(t.text)}</code></td>`)}</tr><tr>${tokens.map((t) => html`<td>${round(t.logprob, 2)}</td>`)}</tr></tbody></table>`)}
    ${siblings.length > 0 && html`<h2>Beside its siblings</h2><table><tbody>${siblings.map((s) => html`<tr key=${s}><td><button onClick=${() => select(s)}>${data.ix[s]}</button></td>
      <td>${differences(data.label[i], data.label[s])}</td><td class="num">ΔQ ${tree.q[s] == null || tree.q[i] == null ? "-" : round(tree.q[s] - tree.q[i], 2)}</td><td>${data.unsound[s] ? "refuted" : ""}</td></tr>`)}</tbody></table>`}</div>`;
}

function Bar({ value }) {
  if (value == null) return html`<span>-</span>`;
  return html`<span><span class="bar" ref=${(e) => e && (e.style.width = `${Math.round(value * 60)}px`)}></span> ${round(value, 2)}</span>`;
}

function fromAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const number = (name, otherwise) => (found.has(name) ? Number(found.get(name)) : otherwise);
  return {
    sort: found.get("sort") ?? "N",
    least: number("least", 0),
    depth: number("depth", 99),
    disagree: number("disagree", 0),
    words: found.get("words") ?? "",
    node: number("node", 0),
    at: found.has("at") ? Number(found.get("at")) : null,
  };
}

function App({ data, meta }) {
  const [view, setView] = useState(fromAddress);
  useEffect(() => {
    const again = () => setView(fromAddress());
    addEventListener("hashchange", again);
    return () => removeEventListener("hashchange", again);
  }, []);
  const upTo = Math.min(view.at ?? data.leaf.length, data.leaf.length);
  const whole = useMemo(() => built(data, data.leaf.length), [data]);
  const tree = useMemo(() => (upTo === data.leaf.length ? whole : built(data, upTo)), [data, upTo]);
  const line = useMemo(() => lines(tree), [tree]);
  const [open, setOpen] = useState(() => {
    const all = new Set();
    for (let i = 0; i < whole.size && all.size < 20000; i++) if (whole.children[i].length) all.add(i);
    return all;
  });
  const rows = useMemo(() => visible(tree, open, view), [tree, open, view.sort, view.least, view.depth, view.words, view.disagree]);
  const selected = whole.place.get(view.node) ?? 0;
  const change = (more) =>
    setView((old) => {
      const next = { ...old, ...more };
      const written = new URLSearchParams();
      for (const [key, value] of Object.entries(next)) if (value !== null && value !== "") written.set(key, value);
      history.replaceState(null, "", `#${written}`);
      return next;
    });
  const select = (i) => change({ node: data.ix[i] });
  const toggle = (i) =>
    setOpen((old) => {
      const next = new Set(old);
      if (!next.delete(i)) next.add(i);
      return next;
    });
  const number = (name, label, step = 1) => html`<label>${label} <input type="number" min="0" step=${step} value=${view[name]} onInput=${(e) => change({ [name]: Number(e.target.value) })} /></label>`;
  return html`<div class="explorer">
    ${line.best.length > 0 && html`<section class="wide" aria-label="Lines of play"><${Strip} tree=${tree} name="Most visited line" line=${line.best} select=${select} selected=${selected} />
      <${Strip} tree=${tree} name="Second line" line=${line.second} select=${select} selected=${selected} /></section>`}
    <section class="wide" aria-label="Timeline"><${Timeline} data=${data} upTo=${upTo} setUpTo=${(at) => change({ at: at === data.leaf.length ? null : at })} /></section>
    <section class="wide controls" aria-label="What is shown"><label>sorted by <select onChange=${(e) => change({ sort: e.target.value })}>${["N", "Q", "P"].map((k) => html`<option selected=${view.sort === k}>${k}</option>`)}</select></label>
      ${number("least", "visits at least")} ${number("depth", "depth at most")} ${number("disagree", "critics differ by", 0.05)}
      <label>step contains <input value=${view.words} onInput=${(e) => change({ words: e.target.value })} /></label>
      <button onClick=${() => setOpen(new Set([0]))}>fold all</button>
      <small>${tree.size} nodes, ${rows.length} shown</small></section>
    <section aria-label="Outline"><${Outline} tree=${tree} rows=${rows} selected=${selected} select=${select} toggle=${toggle} best=${line.best} /></section>
    <section aria-label="Drawing"><${Graph} tree=${tree} rows=${rows} selected=${selected} select=${select} best=${line.best} /></section>
    <section class="wide" aria-label="The chosen node"><${Detail} tree=${tree} i=${selected} select=${select} meta=${meta} /></section></div>`;
}

async function start() {
  const found = inlined ? JSON.parse(inlined.textContent) : await (await fetch(`${root}/api/searches/${id}/tree`)).json();
  if (!found.tree.ix.length) {
    place.textContent = "The tree is written when the search ends.";
    return;
  }
  place.textContent = "";
  render(html`<${App} data=${found.tree} meta=${found.search} />`, place);
  performance.mark("tree-ready");
  place.dataset.ready = "1";
}
start();
