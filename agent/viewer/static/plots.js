"use strict";
// Curves of a run: one line a mode of evaluation, from the page's own data.
for (const place of document.querySelectorAll("[data-plot]")) {
  const data = JSON.parse(place.dataset.plot);
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--soft").trim();
  const colours = ["--high", "--low", "--right", "--wrong", "--link"];
  const dashes = [[], [6, 4], [2, 3], [8, 3, 2, 3], [1, 5]];
  const series = Object.keys(data.modes).map((mode, i) => ({
    label: mode,
    stroke: style.getPropertyValue(colours[i % 5]).trim(),
    dash: dashes[i % 5],
    width: 2,
    value: (_, v) => (v == null ? "-" : `${v.toFixed(1)} %`),
  }));
  const axis = { stroke: ink, grid: { stroke: style.getPropertyValue("--line").trim() } };
  new uPlot(
    {
      width: Math.min(760, place.clientWidth || 760),
      height: 240,
      scales: { x: { time: false }, y: { range: [0, 100] } },
      series: [{ label: "round" }, ...series],
      axes: [{ ...axis, values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? t : "")) }, axis],
    },
    [data.rounds, ...Object.values(data.modes)],
    place,
  );
}
