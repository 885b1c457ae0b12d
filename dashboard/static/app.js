// Charts, live numbers, sorting, downloads and the theme. Every page can be read without it.
"use strict";

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const usd = (value) =>
  value === 0 || Math.abs(value) >= 1 ? "$" + value.toLocaleString("en", { maximumFractionDigits: 2 }) : "$" + Number(value.toPrecision(3));

function mixed(share) {
  const parse = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const [from, to] = [parse(style("--accent")), parse(style("--line"))];
  return "rgb(" + from.map((part, i) => Math.round(part + (to[i] - part) * share)).join(",") + ")";
}

function axes() {
  const line = { lineStyle: { color: style("--line") } };
  const text = { color: style("--soft"), hideOverlap: true };
  return {
    animation: false,
    textStyle: { fontFamily: "system-ui, sans-serif" },
    grid: { left: 8, right: 12, top: 36, bottom: 8, containLabel: true },
    xAxis: { type: "time", axisLine: line, axisTick: { show: false }, axisLabel: text, splitLine: { show: false } },
    yAxis: { type: "value", axisLabel: { ...text, formatter: usd }, splitLine: line },
    legend: { type: "scroll", top: 0, left: 0, icon: "roundRect", itemWidth: 10, itemHeight: 10, textStyle: text, pageTextStyle: text },
    tooltip: { trigger: "axis", valueFormatter: (v) => (v == null ? "–" : usd(v)), backgroundColor: style("--panel"), borderColor: style("--line"), textStyle: { color: style("--ink") } },
  };
}

function spendChart(data) {
  const count = Math.max(1, data.series.length - 1);
  const series = data.series.map((one, n) => ({
    name: one.name, type: "bar", stack: "spend", barMaxWidth: 28, itemStyle: { color: mixed((0.85 * n) / count) },
    data: data.times.map((at, i) => [at, one.usd[i]]),
  }));
  const base = axes();
  return { ...base, xAxis: { ...base.xAxis, min: data.start, max: data.end }, series };
}

function burnChart(data) {
  const flat = (value) => [[data.start, value], [data.end, value]];
  const last = data.spent[data.spent.length - 1][1];
  const series = [
    { name: "spent", type: "line", step: "end", showSymbol: false, lineStyle: { color: style("--accent"), width: 2 }, itemStyle: { color: style("--accent") }, areaStyle: { color: style("--accent"), opacity: 0.12 }, data: [...data.spent, [data.now, last]] },
    { name: "limit", type: "line", showSymbol: false, lineStyle: { color: style("--soft"), width: 1 }, itemStyle: { color: style("--soft") }, data: flat(data.limit) },
    { name: "hard cap", type: "line", showSymbol: false, lineStyle: { color: style("--stopped"), width: 1 }, itemStyle: { color: style("--stopped") }, data: flat(data.hard) },
  ];
  if (data.forecast) {
    const ends = { expected: "solid", low: "dotted", high: "dotted" };
    for (const [name, type] of Object.entries(ends)) {
      series.push({ name: "forecast, " + name, type: "line", showSymbol: false, lineStyle: { color: style("--accent"), width: 1, type: type === "solid" ? "dashed" : type }, itemStyle: { color: style("--accent") }, data: [[data.now, last], [data.end, data.forecast[name]]] });
    }
  }
  const base = axes();
  return { ...base, xAxis: { ...base.xAxis, min: data.start, max: data.end }, series };
}

function compareChart(data) {
  const colors = [mixed(0.6), style("--accent")];
  const series = data.series.map((one, n) => ({
    name: one.name, type: "bar", barMaxWidth: 18, itemStyle: { color: colors[n] }, data: data.times.map((at, i) => [at, one.usd[i]]),
  }));
  const base = axes();
  return { ...base, xAxis: { ...base.xAxis, min: data.start, max: data.end }, series };
}

const makers = { spend: spendChart, burn: burnChart, compare: compareChart };
const charts = [];
function draw() {
  for (const chart of charts.splice(0)) chart.dispose();
  for (const box of document.querySelectorAll("[data-chart]")) {
    const data = JSON.parse(document.getElementById(box.dataset.chart + "-data").textContent);
    if (!data || typeof echarts === "undefined") continue;
    box.append(document.createElement("div"));
    const chart = echarts.init(box, null, { renderer: "svg" });
    chart.setOption(makers[box.dataset.chart](data));
    charts.push(chart);
  }
}

function theme() {
  const button = document.getElementById("theme");
  const saved = localStorage.getItem("theme");
  if (saved) document.documentElement.dataset.theme = saved;
  if (!button) return;
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const tell = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  tell();
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("theme", document.documentElement.dataset.theme);
    tell();
    draw();
  });
}

function live() {
  if (!document.querySelector("[data-account]") && !document.querySelector(".empty")) return;
  let first = true;
  const source = new EventSource("/ui/events");
  source.onmessage = (message) => {
    for (const account of JSON.parse(message.data)) {
      const row = document.querySelector(`[data-account="${CSS.escape(account.account)}"]`);
      if (!row) continue;
      for (const name of ["spent", "held", "left", "share", "state", "icon"]) {
        const cell = row.querySelector(`[data-cell="${name}"]`);
        if (cell && cell.textContent !== String(account[name])) cell.textContent = account[name];
      }
      row.querySelector('[data-cell="meter"]').value = Math.min(account.share, 120);
      row.querySelector(".state").className = "state " + account.state.toLowerCase();
      if (!first) {
        row.classList.add("moved");
        setTimeout(() => row.classList.remove("moved"), 1200);
      }
    }
    first = false;
  };
}

function sortable(table) {
  const value = (row, at) => { const cell = row.cells[at]; return cell.dataset.sort ?? cell.textContent.trim(); };
  for (const [at, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => value(a, at).localeCompare(value(b, at), "en", { numeric: true }) * (up ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  }
}

function downloadable(table) {
  const harmless = (text) => (/^[=+\-@\t\r]/.test(text) ? "'" + text : text);
  const quoted = (text) => '"' + harmless(text.trim().replace(/\s+/g, " ")).replaceAll('"', '""') + '"';
  const link = document.createElement("button");
  link.type = "button";
  link.className = "plain download";
  link.textContent = "Download as CSV";
  link.addEventListener("click", () => {
    const text = [...table.rows].map((row) => [...row.cells].map((cell) => quoted(cell.title || cell.textContent)).join(",")).join("\r\n");
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    const file = Object.assign(document.createElement("a"), { href: url, download: "spendgate.csv" });
    file.click();
    URL.revokeObjectURL(url);
  });
  table.closest(".scroll").after(link);
}

theme();
draw();
live();
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("table").forEach(downloadable);
addEventListener("resize", () => charts.forEach((chart) => chart.resize()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
