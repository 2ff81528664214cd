// The usage chart: stacked bars by outcome, drawn by uPlot; hover reads, drag zooms, the legend hides.
(() => {
  const frame = document.getElementById("chart");
  if (!frame) return;
  const plot = frame.querySelector(".plot");
  const legend = frame.querySelector(".legend-row");
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const ink = (name) => {
    // light-dark() is resolved by asking an element for the colour it has
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    plot.append(probe);
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  };
  const hidden = new Set();
  let told;
  let drawn;

  const stacked = () => {
    const shown = told.lines.filter((line) => !hidden.has(line.code));
    const sums = new Array(told.starts.length).fill(0);
    return shown.map((line) => ({ line, tops: line.counts.map((count, at) => (sums[at] += count)) })).reverse();
  };

  const draw = () => {
    if (drawn) drawn.destroy();
    const layers = stacked();
    const bars = uPlot.paths.bars({ size: [0.86, 90], gap: 1 });
    const axis = { stroke: ink("--ink-2"), grid: { stroke: ink("--rule"), width: 1 }, ticks: { show: false }, font: `13px ${style("--text")}` };
    drawn = new uPlot({
      width: plot.clientWidth,
      height: 304,
      padding: [12, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
      scales: {
        x: { time: true, range: () => [told.starts[0] - told.seconds / 2, told.starts.at(-1) + told.seconds / 2] },
        y: { range: (_, __, top) => [0, Math.max(4, top * 1.08)] },
      },
      axes: [{ ...axis, grid: { show: false }, space: 84, size: 30, values: (_, marks) => marks.map(mark) }, { ...axis, size: 56, values: (_, marks) => marks.map((mark) => (Number.isInteger(mark) ? short.format(mark) : "")) }],
      series: [{}, ...layers.map(({ line }) => ({ label: line.label, paths: bars, fill: ink(`--chart-${line.tone}`), stroke: ink("--sheet"), width: 0, points: { show: false } }))],
      hooks: { setCursor: [read], setSelect: [zoom] },
    }, [told.starts, ...layers.map((layer) => layer.tops)], plot);
  };

  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
  const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  // midnight, and every mark of a chart by the day, is told by its date
  const mark = (seconds) => {
    const at = new Date(seconds * 1000);
    return told.seconds >= 86400 || at.getHours() + at.getMinutes() === 0 ? date.format(at) : clock.format(at);
  };
  const short = new Intl.NumberFormat(undefined, { notation: "compact" });
  const long = new Intl.NumberFormat();
  const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const reading = frame.querySelector(".reading");
  const idle = reading.textContent;

  const read = (chart) => {
    const at = chart.cursor.idx;
    if (at === null || at === undefined) { reading.textContent = idle; return; }
    const parts = told.lines.filter((line) => line.counts[at] && !hidden.has(line.code))
      .map((line) => `${long.format(line.counts[at])} ${line.label.toLowerCase()}`);
    reading.textContent = `${when.format(new Date(told.starts[at] * 1000))}: ${parts.join(", ") || "no uses"}`;
  };

  const zoom = (chart) => {
    if (chart.select.width < 8) return;
    const edge = (pixels) => new Date(Math.round(chart.posToVal(pixels, "x")) * 1000).toISOString().slice(0, 19) + "Z";
    const to = new URL(location.href);
    to.search = "";
    to.searchParams.set("from", edge(chart.select.left));
    to.searchParams.set("to", edge(chart.select.left + chart.select.width));
    location.assign(to);
  };

  const label = () => {
    every().forEach((button) => button.remove());
    [...told.lines].reverse().forEach((line) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!hidden.has(line.code)));
      const swatch = document.createElement("span");
      swatch.className = `swatch ${line.tone}`;
      button.append(swatch, line.label);
      button.addEventListener("click", () => {
        if (hidden.has(line.code)) hidden.delete(line.code); else hidden.add(line.code);
        button.setAttribute("aria-pressed", String(!hidden.has(line.code)));
        draw();
      });
      legend.insertBefore(button, reading);
    });
  };
  const every = () => [...legend.querySelectorAll("button")];

  const load = async () => {
    const answer = await fetch(frame.dataset.series, { headers: { "X-Keyledger-Request": "1" } });
    if (!answer.ok) { reading.textContent = "The series cannot be read just now."; return; }
    const next = await answer.json();
    const same = told && next.lines.map((line) => line.code).join() === told.lines.map((line) => line.code).join();
    told = next;
    frame.querySelector(".none").hidden = told.lines.length > 0;
    if (same) drawn.setData([told.starts, ...stacked().map((layer) => layer.tops)]);
    else { label(); draw(); }
  };

  new ResizeObserver(() => { if (drawn && plot.clientWidth) drawn.setSize({ width: plot.clientWidth, height: 304 }); }).observe(plot);
  document.addEventListener("keyledger:theme", () => { if (told) draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (told) draw(); });
  if (frame.dataset.every) setInterval(() => { if (!document.hidden) load().catch(() => {}); }, Number(frame.dataset.every) * 1000);
  load().catch(() => { reading.textContent = "The series cannot be read just now."; });
})();
