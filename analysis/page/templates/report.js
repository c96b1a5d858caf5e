"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 300, LEFT = 62, RIGHT = 12, TOP = 26, BOTTOM = 46, REACH = 28, CHARACTER = 6.5;
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const tip = document.getElementById("tip");
  const hidden = new Set();

  const node = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const count = (value) => {
    for (const [unit, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]]) {
      if (value >= size * 0.99999) return Number((value / size).toPrecision(3)) + unit;
    }
    return String(Number(value.toPrecision(3)));
  };
  const flops = (value) => value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  const say = (axis, value) => axis.kind === "count" ? count(value) : axis.kind === "flops" ? flops(value) : String(Number(value.toPrecision(4)));

  const scaleOf = (axis, values, from, to) => {
    const found = values.filter((value) => Number.isFinite(value) && (!axis.log || value > 0));
    const forward = axis.log ? Math.log : (value) => value;
    let low = Math.min(...found.map(forward)), high = Math.max(...found.map(forward));
    if (!found.length) { low = 0; high = 1; }
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    low -= room; high += room;
    const place = (value) => from + (forward(value) - low) / (high - low) * (to - from);
    return { place, low, high };
  };

  const ticksOf = (axis, scale) => {
    if (axis.ticks.length) return axis.ticks;
    const { low, high } = scale;
    if (!axis.log) {
      const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
      const found = [];
      for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(Math.abs(value) < step / 1e6 ? 0 : value);
      return found;
    }
    const decades = (high - low) / Math.LN10;
    const parts = decades > 3 ? [1] : decades > 1.2 ? [1, 3] : decades > 0.6 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7];
    const found = [];
    for (let power = Math.floor(low / Math.LN10); power <= Math.ceil(high / Math.LN10); power += 1) {
      for (const part of parts) {
        const value = part * 10 ** power;
        if (Math.log(value) >= low && Math.log(value) <= high) found.push(value);
      }
    }
    return found;
  };

  const polygon = (x, y, corners, size) => corners.map(([dx, dy]) => `${x + dx * size},${y + dy * size}`).join(" ");
  const CORNERS = {
    square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    triangle: [[0, -1.3], [1.2, 1], [-1.2, 1]],
    down: [[0, 1.3], [1.2, -1], [-1.2, -1]],
    diamond: [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]],
    plus: [[-.4, -1.3], [.4, -1.3], [.4, -.4], [1.3, -.4], [1.3, .4], [.4, .4], [.4, 1.3], [-.4, 1.3], [-.4, .4], [-1.3, .4], [-1.3, -.4], [-.4, -.4]],
    cross: [[-1.3, -.8], [-.8, -1.3], [0, -.5], [.8, -1.3], [1.3, -.8], [.5, 0], [1.3, .8], [.8, 1.3], [0, .5], [-.8, 1.3], [-1.3, .8], [-.5, 0]],
    star: Array.from({ length: 10 }, (_, i) => [Math.sin(i * Math.PI / 5) * (i % 2 ? .9 : 2), -Math.cos(i * Math.PI / 5) * (i % 2 ? .9 : 2)]),
  };
  const mark = (shape, x, y, colour) => {
    if (shape === "none") return node("g");
    const look = shape === "star" ? { fill: colour, stroke: "#000", "stroke-width": 0.8 } : { fill: colour, stroke: "#fff", "stroke-width": 0.6 };
    if (shape === "circle") return node("circle", { cx: x, cy: y, r: 3.6, ...look });
    return node("polygon", { points: polygon(x, y, CORNERS[shape] || CORNERS.square, 3.3), ...look });
  };

  const spread = (points, low, value, high) => points.flatMap((point) => [point[low], point[value], point[high]].filter((each) => each !== undefined));

  const draw = (figure, chart) => {
    figure.replaceChildren();
    const series = chart.series.filter((each) => !hidden.has(each.arm));
    figure.hidden = series.length === 0;
    if (figure.hidden) return;
    const WIDTH = chart.width;
    const x = scaleOf(chart.x, [...chart.x.ticks, ...series.flatMap((each) => [...spread(each.points, "xlow", "x", "xhigh"), ...each.line.map((place) => place[0])])], LEFT, WIDTH - RIGHT);
    const zero = chart.zero === undefined ? [] : [chart.zero];
    const y = scaleOf(chart.y, [...zero, ...series.flatMap((each) => [...spread(each.points, "low", "y", "high"), ...each.line.map((place) => place[1]), ...each.band.flatMap((place) => place.slice(1))])], HEIGHT - BOTTOM, TOP);
    const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${chart.title}: ${chart.y.label} against ${chart.x.label}` });
    svg.append(node("text", { x: LEFT, y: 15, class: "title" }, chart.title));
    let labelled = -Infinity;
    for (const value of ticksOf(chart.x, x)) {
      const at = x.place(value), text = say(chart.x, value), half = text.length * CHARACTER / 2;
      svg.append(node("line", { x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM, stroke: "#ececec" }));
      if (at - half < labelled + CHARACTER) continue; // Its label would touch the one before.
      svg.append(node("text", { x: at, y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, text));
      labelled = at + half;
    }
    for (const value of ticksOf(chart.y, y)) {
      const at = y.place(value);
      svg.append(node("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at, stroke: "#ececec" }), node("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, say(chart.y, value)));
    }
    for (const value of zero) svg.append(node("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y.place(value), y2: y.place(value), stroke: "#000", "stroke-width": 0.8 }));
    svg.append(node("path", { d: `M${LEFT},${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}`, fill: "none", stroke: "#333", "stroke-width": 0.8 }));
    svg.append(node("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 10, "text-anchor": "middle" }, chart.x.label));
    svg.append(node("text", { x: 12, y: (TOP + HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(TOP + HEIGHT - BOTTOM) / 2})` }, chart.y.label));
    const path = (places) => "M" + places.map(([a, b]) => `${x.place(a).toFixed(2)},${y.place(b).toFixed(2)}`).join("L");
    const targets = [];
    for (const each of series) {
      if (each.band.length) {
        const rim = [...each.band.map((place) => [place[0], place[2]]), ...each.band.slice().reverse().map((place) => [place[0], place[1]])];
        svg.append(node("path", { d: path(rim) + "Z", fill: each.colour, opacity: 0.13 }));
      }
      if (each.line.length) svg.append(node("path", { d: path(each.line), fill: "none", stroke: each.colour, "stroke-width": 1.5, "stroke-dasharray": each.dashed ? "5 3" : "none" }));
      const thick = each.line.filter(([place]) => each.thick_from !== null && place >= each.thick_from);
      if (thick.length > 1) svg.append(node("path", { d: path(thick), fill: "none", stroke: each.colour, "stroke-width": 3.2 }));
      for (const point of each.points) {
        const at = { x: x.place(point.x), y: y.place(point.y), text: point.text };
        if (point.low !== undefined) svg.append(node("path", { d: `M${at.x},${y.place(point.low)}V${y.place(point.high)}`, stroke: each.marker === "star" ? "#000" : each.colour, "stroke-width": 1.2 }));
        if (point.xlow !== undefined) svg.append(node("path", { d: `M${x.place(point.xlow)},${at.y}H${x.place(point.xhigh)}`, stroke: "#000", "stroke-width": 1.2 }));
        svg.append(mark(each.marker, at.x, at.y, point.colour || each.colour));
        targets.push(at);
      }
    }
    const hit = node("rect", { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM, fill: "transparent", class: "hit" });
    hit.addEventListener("mousemove", (event) => hover(event, svg, targets, WIDTH));
    hit.addEventListener("mouseleave", () => { tip.hidden = true; });
    svg.append(hit);
    figure.append(svg);
    figure.append(legend(series));
    figure.append(download(svg, chart.id));
  };

  // A picture that stands alone: what the page's style says of its text goes with it.
  const download = (svg, name) => {
    const button = document.createElement("button");
    button.textContent = "SVG";
    button.setAttribute("title", "save this figure");
    button.addEventListener("click", () => {
      const copy = svg.cloneNode(true);
      copy.setAttribute("xmlns", SVG);
      copy.setAttribute("font-family", "DejaVu Sans, sans-serif");
      copy.setAttribute("font-size", "11");
      for (const title of copy.querySelectorAll(".title")) title.setAttribute("font-weight", "bold");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([copy.outerHTML], { type: "image/svg+xml" }));
      link.download = `${name}.svg`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
    return button;
  };

  const hover = (event, svg, targets, WIDTH) => {
    const box = svg.getBoundingClientRect(), scale = WIDTH / box.width;
    const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
    let best = null, least = REACH ** 2;
    for (const target of targets) {
      const distance = (target.x - px) ** 2 + (target.y - py) ** 2;
      if (distance < least) { least = distance; best = target; }
    }
    tip.hidden = best === null;
    if (best === null) return;
    tip.textContent = best.text.join("\n");
    tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8)}px`;
  };

  const legend = (series) => {
    const box = document.createElement("figcaption");
    box.className = "legend";
    const named = new Set();
    for (const each of series.filter((one) => one.legend !== "")) {
      if (named.has(each.legend)) continue;
      named.add(each.legend);
      const entry = document.createElement("span"), key = node("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" });
      if (each.line.length) key.append(node("path", { d: "M0,5H22", stroke: each.colour, "stroke-width": 1.5, "stroke-dasharray": each.dashed ? "5 3" : "none" }));
      key.append(mark(each.marker, 11, 5, each.colour));
      entry.append(key, ` ${each.legend}`);
      box.append(entry);
    }
    return box;
  };

  const show = () => {
    const charts = new Map(payload.charts.map((chart) => [chart.id, chart]));
    for (const figure of document.querySelectorAll("[data-chart]")) draw(figure, charts.get(figure.dataset.chart));
    for (const part of document.querySelectorAll("[data-arm]")) part.hidden = hidden.has(part.dataset.arm);
  };

  for (const box of document.querySelectorAll("#arms input")) {
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(box.value); else hidden.add(box.value);
      show();
    });
  }
  show();
  document.body.dataset.drawn = String(document.querySelectorAll("figure svg[role=img]").length);
})();
