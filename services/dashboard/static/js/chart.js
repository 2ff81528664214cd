// The usage chart: stacked bars by outcome, drawn by uPlot; hover reads, drag zooms, the legend hides. What it
// shows stands in the page (#told), and comes again with the totals and the table.
(() => {
  const byId = (id) => document.getElementById(id);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const hidden = new Set();
  let frame;
  let plot;
  let reading;
  let idle;
  let source;
  let told;
  let drawn;

  const ink = (name) => {
    // light-dark() is resolved by asking an element for the colour it has
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    plot.append(probe);
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  };

  const stacked = () => {
    const shown = told.lines.filter((line) => !hidden.has(line.code));
    const sums = new Array(told.starts.length).fill(0);
    return shown.map((line) => ({ line, tops: line.counts.map((count, at) => (sums[at] += count)) })).reverse();
  };

  // days are UTC's, so they are told by UTC's calendar; hours and minutes by the reader's clock
  const zone = () => (told.seconds >= 86400 ? { timeZone: "UTC" } : {});
  const words = (options, seconds) => new Intl.DateTimeFormat(undefined, { ...zone(), ...options }).format(new Date(seconds * 1000));
  const mark = (seconds) => {
    const at = new Date(seconds * 1000);
    // midnight, and every mark of a chart by the day, is told by its date
    return told.seconds >= 86400 || at.getHours() + at.getMinutes() === 0
      ? words({ day: "numeric", month: "short" }, seconds) : words({ hour: "2-digit", minute: "2-digit" }, seconds);
  };
  const short = new Intl.NumberFormat(undefined, { notation: "compact" });
  const long = new Intl.NumberFormat();

  // the last bucket is still being counted: it stands on a shade, so that it is not taken for a fall
  const shade = (chart) => {
    if (!told.running) return;
    const last = told.starts.at(-1);
    const left = chart.valToPos(last - told.seconds / 2, "x", true);
    const right = chart.valToPos(last + told.seconds / 2, "x", true);
    chart.ctx.fillStyle = ink("--pen-soft");
    chart.ctx.fillRect(left, chart.bbox.top, right - left, chart.bbox.height);
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
      ...(told.seconds >= 86400 ? { tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC") } : {}),
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
      scales: {
        x: { time: true, range: () => [told.starts[0] - told.seconds / 2, told.starts.at(-1) + told.seconds / 2] },
        y: { range: (_, __, top) => [0, Math.max(4, top * 1.08)] },
      },
      axes: [{ ...axis, grid: { show: false }, space: 84, size: 30, values: (_, marks) => marks.map(mark) }, { ...axis, size: 56, values: (_, marks) => marks.map((mark) => (Number.isInteger(mark) ? short.format(mark) : "")) }],
      series: [{}, ...layers.map(({ line }) => ({ label: line.label, paths: bars, fill: ink(`--chart-${line.tone}`), stroke: ink("--sheet"), width: 0, points: { show: false } }))],
      hooks: { drawClear: [shade], setCursor: [read], setSelect: [zoom] },
    }, [told.starts, ...layers.map((layer) => layer.tops)], plot);
  };

  const read = (chart) => {
    const at = chart.cursor.idx;
    if (at === null || at === undefined) { reading.textContent = idle; return; }
    const parts = told.lines.filter((line) => line.counts[at] && !hidden.has(line.code))
      .map((line) => `${long.format(line.counts[at])} ${line.label.toLowerCase()}`);
    const when = words(told.seconds >= 86400 ? { dateStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" }, told.starts[at]);
    const so = told.running && at === told.starts.length - 1 ? ", so far" : "";
    reading.textContent = `${when}${so}: ${parts.join(", ") || "no uses"}`;
  };

  const zoom = (chart) => {
    if (chart.select.width < 8) return;
    const edge = (pixels) => new Date(Math.round(chart.posToVal(pixels, "x") + told.seconds / 2) * 1000).toISOString().slice(0, 19) + "Z";
    const to = new URL(location.href);
    to.search = "";
    to.searchParams.set("from", edge(chart.select.left));
    to.searchParams.set("to", edge(chart.select.left + chart.select.width));
    location.assign(to);
  };

  const label = () => {
    frame.querySelectorAll(".legend-row button").forEach((button) => button.remove());
    told.lines.forEach((line) => {
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
      reading.before(button);
    });
  };

  const begin = () => {
    frame = byId("chart");
    plot = frame.querySelector(".plot");
    reading = frame.querySelector(".reading");
    idle = reading.textContent;
    told = drawn = undefined;
    new ResizeObserver(() => { if (drawn && plot.clientWidth) drawn.setSize({ width: plot.clientWidth, height: 304 }); }).observe(plot);
  };

  const follow = () => {
    if (!byId("told") || byId("told").dataset.chart === source) return;
    source = byId("told").dataset.chart;
    if (frame !== byId("chart")) begin();
    const before = told;
    told = JSON.parse(source);
    frame.querySelector(".none").hidden = told.lines.length > 0;
    const codes = (chart) => chart.lines.map((line) => line.code).join();
    if (before && codes(before) === codes(told)) drawn.setData([told.starts, ...stacked().map((layer) => layer.tops)]);
    else { label(); draw(); }
    if (before) document.body.dispatchEvent(new CustomEvent("counted"));
  };

  document.addEventListener("keyledger:theme", () => { if (told) draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (told) draw(); });
  document.addEventListener("htmx:oobAfterSwap", follow);
  follow();
})();
