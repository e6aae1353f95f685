"use strict";
// A report's page: the curve of the chosen video, and what the model saw in the chosen moment of it.
// Everything is read from the block "data"; texts reach the page through textContent, or escaped where Plotly draws them.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const state = { video: data.first, chosen: 0, shown: 0, unit: "logit" };
  const ROWS_SHOWN = 64;
  const touch = window.matchMedia("(pointer: coarse)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const CONFIG = { displayModeBar: false, displaylogo: false, scrollZoom: false, doubleClick: "reset" };

  // Words and numbers

  const minus = (text) => text.replace("-", "\u2212");
  const number = (value, digits) => minus(value.toFixed(digits));
  const asScore = (logit) => 1 / (1 + Math.exp(-logit));
  const scoreText = (score) => (score > 0.99 ? "> 0.99" : score < 0.01 ? "< 0.01" : score.toFixed(2));
  const extent = (values) => values.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity]);
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const seconds = (value) => {
    const minutes = Math.floor(value / 60);
    return minutes ? `${minutes}:${(value - 60 * minutes).toFixed(1).padStart(4, "0")} min` : `${value.toFixed(1)} s`;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  const video = () => data.videos[state.video];
  const moment = (index) => {
    const { frames, seconds: [start, end], rows: [first, last], logit } = video().moments[index];
    return { firstFrame: frames[0], lastFrame: frames[1] - 1, start, end, first, last, logit, middle: (start + end) / 2 };
  };
  const momentAt = (time) => {
    const index = video().moments.findIndex(({ seconds: [start, end] }) => start - 1e-3 <= time && time < end - 1e-3);
    return moment(Math.max(0, index));
  };
  const overlaps = (spans, one) => spans.some(([start, end]) => start < one.end && one.start < end);

  // The curve

  const level = (logit) => (state.unit === "score" ? asScore(logit) : logit);
  const box = (x0, x1, y0, y1, options) => ({ type: "rect", xref: "x", yref: "paper", x0, x1, y0, y1, line: { width: 0 }, ...options });
  const across = (y, dash) => ({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: colour("ink"), width: 1.5, dash },
  });

  function curveShapes() {
    const one = video();
    const at = moment(state.shown);
    const shapes = (one.truth || []).map(([x0, x1]) => box(x0, x1, 0, 1, { fillcolor: colour("shade"), layer: "below" }));
    for (const event of one.events) shapes.push(box(event.start, event.end, 1.02, 1.06, { fillcolor: colour("alarm") }));
    shapes.push(across(level(one.threshold), "dash"));
    if (one.release < one.threshold) shapes.push(across(level(one.release), "dot"));
    shapes.push(box(at.start, at.end, 0, 1, { fillcolor: colour("accent"), opacity: 0.16, layer: "below" }));
    shapes.push(box(at.start, at.end, 0, 1, { line: { width: 1, color: colour("accent") } }));
    return shapes;
  }

  function range(values) {
    if (state.unit === "score") return [-0.03, 1.03];
    const [low, high] = extent(values);
    const pad = 0.06 * (high - low || 1);
    return [low - pad, high + pad];
  }

  function layout(extra) {
    const axis = { gridcolor: colour("line"), zeroline: false, linecolor: colour("line"), color: colour("soft"), automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: "system-ui, sans-serif", size: 12, color: colour("ink") },
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
      ...extra,
      xaxis: { ...axis, ...(extra.xaxis || {}) }, yaxis: { ...axis, ...(extra.yaxis || {}) },
    };
  }

  function drawCurve() {
    const one = video();
    const x = [];
    const y = [];
    one.logits.forEach((logit, index) => {
      x.push(one.edges[index], one.edges[index + 1]);
      y.push(level(logit), level(logit));
    });
    const moments = one.moments.map((_, index) => moment(index));
    const heights = moments.map((at) => level(at.logit));
    const labels = moments.map((at) => `${seconds(at.start)} to ${seconds(at.end)}<br>logit ${number(at.logit, 1)}, `
      + `score ${plain(scoreText(asScore(at.logit)))}`);
    const traces = [
      { x, y, mode: "lines", line: { color: colour("accent"), width: 2.2 }, hoverinfo: "skip" },
      { x: moments.map((at) => at.middle), y: heights, mode: "lines", line: { width: 0, color: "rgba(0,0,0,0)" },
        customdata: moments.map((_, index) => index), text: labels, hovertemplate: "%{text}<extra></extra>" },
      { x: one.events.map((event) => momentAt(event.at).middle), y: one.events.map((event) => level(event.peak)), mode: "markers",
        marker: { symbol: "triangle-down", size: 12, color: colour("alarm"), line: { width: 1.5, color: colour("card") } },
        hoverinfo: "skip", cliponaxis: false },
    ];
    const span = [one.edges[0], one.edges[one.edges.length - 1]];
    const narrow = find("curve").clientWidth < 500;
    const made = layout({
      height: narrow ? 250 : 300, margin: { l: 46, r: 12, t: 22, b: 40 }, hovermode: "x", hoverdistance: -1,
      dragmode: touch.matches ? false : "zoom", shapes: curveShapes(),
      xaxis: { title: { text: "seconds", standoff: 6 }, range: span, showgrid: false, nticks: narrow ? 5 : 10, fixedrange: touch.matches },
      yaxis: { title: { text: state.unit, standoff: 6 }, range: range([...heights, level(one.threshold)]), fixedrange: true },
      annotations: [{ xref: "paper", x: 1, y: level(one.threshold), text: "threshold", showarrow: false, xanchor: "right",
        yanchor: "bottom", font: { size: 11, color: colour("ink") }, bgcolor: colour("card"), opacity: 0.85 }],
    });
    Plotly.react("curve", traces, made, CONFIG);
    if (!drawCurve.bound) {
      drawCurve.bound = true;
      const plot = find("curve");
      const index = (event) => (event.points.find((point) => point.customdata !== undefined) || {}).customdata;
      plot.on("plotly_hover", (event) => { if (index(event) !== undefined) preview(index(event)); });
      plot.on("plotly_unhover", () => preview(state.chosen));
      plot.on("plotly_click", (event) => { if (index(event) !== undefined) choose(index(event)); });
    }
  }

  // The relation graphs

  function bytes(text) {
    const raw = atob(text);
    const found = new Uint8Array(raw.length);
    for (let index = 0; index < raw.length; index += 1) found[index] = raw.charCodeAt(index);
    return found;
  }

  function values(graph) {
    if (!graph.values) {
      const levels = bytes(graph.data);
      const step = (graph.high - graph.low) / 255;
      graph.values = [];
      for (let start = 0; start < levels.length; start += graph.columns) {
        graph.values.push(Array.from(levels.subarray(start, start + graph.columns), (one) => graph.low + one * step));
      }
    }
    return graph.values;
  }

  function rowsAround(one, at) {
    const rows = one.rows || Array.from(one.graphs.length ? values(one.graphs[0]) : [], (_, index) => index);
    const places = rows.map((row, place) => [row, place]).filter(([row]) => row >= at.first && row <= at.last).map(([, place]) => place);
    if (!places.length) return null;
    const start = Math.max(0, Math.min(places[0] - ROWS_SHOWN / 2, rows.length - ROWS_SHOWN));
    return { rows, start, end: Math.min(rows.length, start + ROWS_SHOWN), first: places[0], last: places[places.length - 1] };
  }

  function momentOfRow(row) {
    const one = video();
    if (!one.momentOfRow) {
      one.momentOfRow = [];
      one.moments.forEach(({ rows: [first, last] }, index) => { for (let at = first; at <= last; at += 1) one.momentOfRow[at] = index; });
    }
    return one.momentOfRow[row];
  }

  function mark(shown) {
    const edges = { type: "rect", xref: "paper", x0: 0, x1: 1, y0: shown.first - 0.5, y1: shown.last + 0.5 };
    return [{ ...edges, line: { color: colour("card"), width: 5 } }, { ...edges, line: { color: colour("alarm"), width: 2.5 } }];
  }

  function drawGraphs() {
    const one = video();
    const home = find("graphs");
    const at = moment(state.shown);
    const shown = one.graphs.length ? rowsAround(one, at) : null;
    find("graphs-missing").hidden = shown !== null || !data.graphs;
    if (!shown) {
      home.replaceChildren();
      home.dataset.drawn = "";
      return;
    }
    const key = [state.video, shown.start, shown.end, colour("paper")].join();
    if (home.dataset.drawn === key) {
      for (const child of home.children) Plotly.relayout(child.lastChild, { shapes: mark(shown) });
      return;
    }
    home.dataset.drawn = key;
    const holders = one.graphs.map((graph) => {
      const holder = element("figure", undefined, "graph");
      const fused = data.square ? "fused graph" : "fused graph: what each segment receives";
      holder.append(element("figcaption", graph.name || fused, graph.name ? "" : "fused"), element("div"));
      return holder;
    });
    home.replaceChildren(...holders);  // all places first, since each plot takes the width of its own
    one.graphs.forEach((graph, index) => drawGraph(holders[index].lastChild, one, graph, shown));
  }

  function drawGraph(place, one, graph, shown) {
    const rows = [];
    for (let row = shown.start; row < shown.end; row += 1) rows.push(row);
    const time = (row) => { const at = moment(momentOfRow(shown.rows[row])); return `${at.start.toFixed(1)}`; };
    const label = (column) => plain(one.columns[column]);
    const across = data.square ? "segment" : `known normal segments, ${graph.columns} of ${one.known}`;
    const each = Math.max(1, Math.ceil(rows.length / 6));
    const ticks = rows.filter((_, index) => index % each === 0);
    const text = rows.map((row) => Array.from({ length: graph.columns }, (_, column) => `${time(row)} s and ${label(column)}`));
    const trace = {
      type: "heatmap", z: rows.map((row) => values(graph)[row]), y: rows, text, colorscale: "Cividis", zmin: graph.low, zmax: graph.high,
      hovertemplate: "%{text}<br>%{z:.3f}<extra></extra>",
      colorbar: { thickness: 9, outlinewidth: 0, tickfont: { color: colour("soft"), size: 10 }, nticks: 5, len: 1 },
    };
    const made = layout({
      height: 250, margin: { l: 40, r: 6, t: 6, b: 34 }, shapes: mark(shown), dragmode: false,
      xaxis: { title: { text: across, standoff: 4 }, showgrid: false, fixedrange: true, nticks: 5 },
      yaxis: { title: { text: "seconds", standoff: 4 }, autorange: false, range: [shown.end - 0.5, shown.start - 0.5], showgrid: false,
        fixedrange: true, tickvals: ticks, ticktext: ticks.map(time) },
    });
    Plotly.newPlot(place, [trace], made, CONFIG);
    place.on("plotly_click", (event) => choose(momentOfRow(shown.rows[event.points[0].y])));
  }

  function drawOperator() {
    const home = find("operator");
    if (!home) return;
    const most = Math.max(...data.coefficients.flatMap((table) => table.values.flat().map(Math.abs)), 1e-9);
    const holders = data.coefficients.map((table) => {
      const holder = element("figure", undefined, "graph");
      holder.append(element("figcaption", table.rows ? `${table.rows} (down) × ${table.columns} (across)` : table.columns), element("div"));
      return holder;
    });
    home.replaceChildren(...holders);
    for (const [index, table] of data.coefficients.entries()) {
      const power = (_, index) => `order ${index}`;
      const trace = {
        type: "heatmap", z: table.values, x: table.values[0].map(power), y: table.values.map(power), zmin: -most, zmax: most,
        colorscale: [[0, "#5e3c99"], [0.25, "#b2abd2"], [0.5, "#f7f7f7"], [0.75, "#fdb863"], [1, "#e66101"]], xgap: 2, ygap: 2,
        text: table.values.map((row) => row.map((one) => number(one, Math.abs(one) >= 0.01 ? 2 : 4))),
        texttemplate: "%{text}", textfont: { size: 12 }, hovertemplate: "%{y} × %{x}: %{z:.5f}<extra></extra>",
        colorbar: { thickness: 9, outlinewidth: 0, tickfont: { color: colour("soft"), size: 10 }, nticks: 5 },
      };
      const made = layout({
        height: 120 + 44 * table.values.length, margin: { l: 60, r: 6, t: 6, b: 34 }, dragmode: false,
        xaxis: { showgrid: false, fixedrange: true },
        yaxis: { showgrid: false, fixedrange: true, autorange: "reversed", showticklabels: Boolean(table.rows) },
      });
      Plotly.newPlot(holders[index].lastChild, [trace], made, CONFIG);
    }
  }

  // The moment

  function facts(at) {
    const one = video();
    const told = [at.logit >= one.threshold ? "at or above the threshold" : "below the threshold"];
    if (overlaps(one.events.map((event) => [event.start, event.end]), at)) told.push("inside an event");
    if (one.truth) told.push(overlaps(one.truth, at) ? "known to be abnormal" : "known to be normal");
    return told.join(", ");
  }

  function bar(name, value, text, low, high, fill) {
    const row = element("div", undefined, "bar");
    const track = element("span", undefined, "track");
    const filled = element("span", undefined, "fill");
    const place = (one) => ((one - low) / (high - low || 1)) * 100;
    filled.style.left = `${place(Math.min(0, value))}%`;
    filled.style.width = `${place(Math.max(0, value)) - place(Math.min(0, value))}%`;
    filled.style.background = fill;
    track.append(filled);
    if (low < 0) {
      const zero = element("span", undefined, "zero");
      zero.style.left = `${place(0)}%`;
      track.append(zero);
    }
    row.append(element("span", name), track, element("span", text, "value"));
    return row;
  }

  function drawParts() {
    const home = find("parts");
    const names = Object.keys(video().parts);
    home.hidden = !names.length;
    if (!names.length) return;
    const found = names.map((name) => video().parts[name][state.shown]);
    const all = names.flatMap((name) => video().parts[name]);
    const [low, high] = extent([0, 1e-9, ...all]);
    const excess = moment(state.shown).logit - video().baseline;
    const share = (part) => (excess > 0 ? ` · ${number((100 * part) / excess, 0)} %` : "");
    const rows = names.map((name, index) => {
      const sign = found[index] > 0 ? "+" : "";
      return bar(name, found[index], `${sign}${number(found[index], 1)}${share(found[index])}`, low, high, `var(--m${index % 8})`);
    });
    find("parts-bars").replaceChildren(...rows);
    find("parts-note").textContent = `Logits above the typical normal segment (${number(video().baseline, 1)}).`;
  }

  function drawMoment() {
    const at = moment(state.shown);
    find("moment-where").textContent = `${seconds(at.start)} to ${seconds(at.end)}, frames ${at.firstFrame} to ${at.lastFrame}`;
    find("moment-score").textContent = `Logit ${number(at.logit, 1)}, score ${scoreText(asScore(at.logit))}: ${facts(at)}.`;
    const slider = find("moment");
    slider.value = state.shown;
    slider.setAttribute("aria-valuetext", `${seconds(at.start)}, logit ${number(at.logit, 1)}`);
    const picture = find("moment-picture");
    const address = video().pictures[state.shown];
    picture.hidden = address === undefined;
    if (address !== undefined) {
      picture.src = address;
      picture.alt = `Frame ${Math.floor((at.firstFrame + at.lastFrame) / 2)} of ${video().name}`;
    }
    document.body.dataset.moment = state.shown;
    document.body.dataset.chosen = state.chosen;
    drawParts();
  }

  function drawPeaks() {
    const home = find("peaks");
    const one = video();
    home.replaceChildren(...one.peaks.map((index) => {
      const at = moment(index);
      const button = element("button", undefined, "peak");
      button.type = "button";
      if (one.pictures[index] !== undefined) {
        const picture = element("img");
        picture.src = one.pictures[index];
        picture.alt = "";
        button.append(picture);
      }
      button.append(element("span", `${one.events.length ? "▼ " : ""}${seconds(at.middle)}, logit ${number(at.logit, 1)}`));
      button.addEventListener("click", () => choose(index));
      return button;
    }));
    find("peaks-title").textContent = one.events.length ? "Peaks of the events" : "Highest moment (no event)";
  }

  function drawVerdict() {
    const one = video();
    const count = one.events.length;
    const limit = `logit ${number(one.threshold, 2)} (score ${scoreText(asScore(one.threshold))})`;
    const word = count ? `${count} event${count > 1 ? "s" : ""} at or above ${limit}` : `No event: nothing lasts above ${limit}`;
    find("verdict").textContent = `${word}. ${one.frames} frames, ${seconds(one.edges[one.edges.length - 1] - one.edges[0])}.`;
    find("video-name").textContent = one.name;
    find("key-truth").hidden = one.truth === null;
    find("key-truth-text").textContent = one.truth && !one.truth.length ? "ground truth: all normal" : "known to be abnormal (ground truth)";
  }

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    window.requestAnimationFrame(() => {
      waiting = false;
      Plotly.relayout("curve", { shapes: curveShapes() });
      drawGraphs();
      drawMoment();
    });
  }

  function preview(index) {
    if (index === state.shown) return;
    state.shown = index;
    redraw();
  }

  function choose(index) {
    state.chosen = index;
    state.shown = index;
    redraw();
  }

  function open(index, scroll) {
    state.video = index;
    state.chosen = video().peaks[0];
    state.shown = state.chosen;
    find("moment").max = video().moments.length - 1;
    document.body.dataset.video = index;
    for (const row of document.querySelectorAll("tr[data-video]")) {
      row.setAttribute("aria-selected", String(Number(row.dataset.video) === index));
    }
    const select = find("video-choice");
    if (select) select.value = String(index);
    drawVerdict();
    drawPeaks();
    drawAll();
    if (scroll) find("video").scrollIntoView({ block: "start" });
  }

  function drawAll() {
    drawCurve();
    drawGraphs();
    drawMoment();
  }

  function repaint() {
    find("graphs").dataset.drawn = "";
    drawAll();
    drawOperator();
  }

  // What a person does

  find("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    repaint();
  });
  dark.addEventListener("change", repaint);
  find("moment").addEventListener("input", (event) => choose(Number(event.target.value)));
  for (const button of document.querySelectorAll("input[name=unit]")) {
    button.addEventListener("change", () => { state.unit = button.value; drawCurve(); });
  }
  for (const row of document.querySelectorAll("tr[data-video]")) {
    row.addEventListener("click", () => open(Number(row.dataset.video), true));
  }
  const select = find("video-choice");
  if (select) select.addEventListener("change", () => open(Number(select.value), false));
  const resized = new ResizeObserver(() => window.requestAnimationFrame(() => {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      if (plot.clientWidth && Math.abs(plot.clientWidth - plot._fullLayout.width) > 1) Plotly.Plots.resize(plot);
    }
  }));
  resized.observe(find("video"));

  open(data.first, false);
  drawOperator();
  document.body.dataset.ready = "yes";
})();
