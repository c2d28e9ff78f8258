"use strict";
// Draws the percentile curves. Without scripts, and on paper, the still pictures
// stand in their place.
(() => {
  const ticks = [0.5, 0.9, 0.99, 0.999, 0.9999];
  const nines = (q) => -Math.log10(1 - q);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const micros = (v) => (v == null ? "–" : v >= 9995 ? (v / 1000).toFixed(1) + " ms" : v >= 100 ? v.toFixed(0) + " µs" : v.toFixed(1) + " µs");
  const percent = (q) => "p" + +(q * 100).toFixed(2);

  // columns puts all series on the quantiles that any of them has.
  function columns(chart) {
    const quantiles = [...new Set(chart.series.flatMap((s) => (s.points || []).map((p) => p.q)))].sort((a, b) => a - b);
    const of = (s, key) => {
      const at = new Map((s.points || []).map((p) => [p.q, p[key]]));
      return quantiles.map((q) => at.get(q) || null);
    };
    const data = [quantiles.map(nines)];
    for (const s of chart.series) data.push(of(s, "us"));
    for (const s of chart.series) data.push(of(s, "lo"), of(s, "hi"));
    return { quantiles, data };
  }

  function draw(box) {
    const chart = charts[box.dataset.chart];
    const { quantiles, data } = columns(chart);
    const soft = style("--soft"), grid = style("--grid");
    const n = chart.series.length;
    const lines = chart.series.map((s) => ({
      label: s.label, stroke: style("--" + s.name) || soft, width: 2, points: { show: false }, value: (_, v) => micros(v),
    }));
    const edges = chart.series.flatMap(() => [0, 1].map(() => ({ show: true, width: 0, points: { show: false }, stroke: "transparent" })));
    const bands = chart.series.map((s, i) => ({
      series: [1 + n + 2 * i + 1, 1 + n + 2 * i], fill: (style("--" + s.name) || soft) + "26",
    }));
    const axis = { stroke: soft, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: "12px system-ui, sans-serif" };
    const plot = new uPlot({
      width: Math.max(box.clientWidth, 240), height: 300,
      scales: { x: { time: false, range: [0, data[0][data[0].length - 1] * 1.02] }, y: { distr: 3, log: 10, range: (_, min, max) => [min * 0.85, max * 1.15] } },
      series: [{ label: "at", value: (_, v) => (v == null ? "–" : percent(1 - Math.pow(10, -v))) }, ...lines, ...edges],
      bands,
      axes: [
        { ...axis, splits: () => ticks.map(nines).filter((x) => x <= data[0][data[0].length - 1]), values: (_, all) => all.map((x) => percent(1 - Math.pow(10, -x))) },
        {
          ...axis, size: 54,
          splits: (u) => {
            const { min, max } = u.scales.y, all = [];
            for (let p = Math.floor(Math.log10(min)); p <= Math.log10(max); p++) for (const f of [1, 2, 5]) { const x = f * 10 ** p; if (x >= min && x <= max) all.push(x); }
            return all;
          },
          filter: (_, all) => all, values: (_, all) => all.map((x) => (x >= 10000 ? x / 1000 + "k" : String(x))),
        },
      ],
      legend: { markers: { width: 2 } },
      cursor: { y: false, points: { size: 7 } },
    }, data, box);
    // The edges of the bands are no series of their own for a reader.
    plot.root.querySelectorAll(".u-legend .u-series").forEach((row, i) => { if (i > n) row.remove(); });
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", chart.title + ": latency by percentile, " + quantiles.length + " points for each of " + n + " variants");
    return plot;
  }

  const boxes = [...document.querySelectorAll(".uplot-box")];
  let plots = [];
  function drawAll() {
    plots.forEach((p) => p.destroy());
    plots = boxes.map(draw);
  }
  drawAll();
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    plots.forEach((p, i) => p.setSize({ width: Math.max(boxes[i].clientWidth, 240), height: 300 }));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
