// Charts, live numbers, sorting, downloads and the theme. Every page can be read without it.
"use strict";

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const usd = (value) =>
  value === 0 || Math.abs(value) >= 1 ? "$" + value.toLocaleString("en", { maximumFractionDigits: 2 }) : "$" + Number(value.toPrecision(3));

function mixed(share, to) {
  const parse = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const [from, end] = [parse(style("--accent")), parse(style(to))];
  return "rgb(" + from.map((part, i) => Math.round(part + (end[i] - part) * share)).join(",") + ")";
}

function base() {
  const text = { color: style("--soft"), hideOverlap: true };
  return {
    animation: false,
    textStyle: { fontFamily: "system-ui, sans-serif" },
    grid: { left: 4, right: 14, top: 36, bottom: 4, containLabel: true },
    xAxis: { axisLine: { lineStyle: { color: style("--edge") } }, axisTick: { show: false }, axisLabel: text, splitLine: { show: false } },
    yAxis: { type: "value", axisLabel: { ...text, formatter: usd }, splitLine: { lineStyle: { color: style("--line") } }, splitNumber: 4 },
    legend: { type: "scroll", top: 0, left: 0, icon: "roundRect", itemWidth: 10, itemHeight: 10, itemGap: 14, textStyle: { color: style("--soft") }, pageTextStyle: { color: style("--soft") }, pageIconColor: style("--accent"), pageIconInactiveColor: style("--line") },
    tooltip: { trigger: "axis", axisPointer: { type: "shadow", shadowStyle: { color: style("--soft"), opacity: 0.1 } }, valueFormatter: (v) => (v == null ? "–" : usd(v)), backgroundColor: style("--panel"), borderColor: style("--line"), textStyle: { color: style("--ink") } },
  };
}

// The dearest is darkest; what is left of the others is grey.
function spendChart(data) {
  const own = data.series.filter((one) => one.name !== "other").length;
  const series = data.series.map((one, n) => ({
    name: one.name, type: "bar", stack: "spend", barMaxWidth: 64, barCategoryGap: "28%", data: one.usd,
    itemStyle: { color: one.name === "other" ? style("--edge") : mixed((0.75 * n) / Math.max(1, own - 1), "--panel") },
  }));
  const all = base();
  const short = (label) => { const [day, time] = label.split(/ (?=\d\d:)/); return time && time !== "00:00" ? time : day; };
  return { ...all, xAxis: { ...all.xAxis, type: "category", data: data.labels, axisLabel: { ...all.xAxis.axisLabel, formatter: short } }, series };
}

// ECharts knows the browser's zone and UTC only: what a clock in the budget's zone shows is drawn as if it were UTC.
function clockOf(zone) {
  const format = new Intl.DateTimeFormat("en", { timeZone: zone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric" });
  return (at) => {
    const part = Object.fromEntries(format.formatToParts(at).map(({ type, value }) => [type, Number(value)]));
    return Date.UTC(part.year, part.month - 1, part.day, part.hour, part.minute, part.second);
  };
}

function burnChart(data) {
  const clock = clockOf(data.zone);
  const [start, end, now] = [data.start, data.end, data.now].map(clock);
  const last = data.spent[data.spent.length - 1][1];
  const line = (name, color, width, type, points) => ({ name, type: "line", showSymbol: false, lineStyle: { color: style(color), width, type }, itemStyle: { color: style(color) }, data: points });
  const series = [
    { ...line("spent", "--accent", 2, "solid", [...data.spent.map(([at, usd]) => [clock(at), usd]), [now, last]]), step: "end", areaStyle: { color: style("--accent"), opacity: 0.12 } },
    line("limit", "--soft", 1, "solid", [[start, data.limit], [end, data.limit]]),
    line("hard cap", "--stopped", 1, "solid", [[start, data.hard], [end, data.hard]]),
  ];
  if (data.forecast) {
    const { low, expected, high } = data.forecast;
    const band = { stack: "band", silent: true, tooltip: { show: false } };
    series.push(
      line("forecast", "--accent", 1.5, "dashed", [[now, last], [end, expected]]),
      { ...line("low", "--accent", 0, "solid", [[now, last], [end, low]]), ...band },
      { ...line("nine times in ten", "--accent", 0, "solid", [[now, 0], [end, high - low]]), ...band, areaStyle: { color: style("--accent"), opacity: 0.15 } },
    );
  }
  const all = base();
  return {
    ...all, useUTC: true, xAxis: { ...all.xAxis, type: "time", min: start, max: end }, series,
    legend: { ...all.legend, data: ["spent", "forecast", "limit", "hard cap"] }, tooltip: { show: false },
  };
}

function compareChart(data) {
  const colors = [style("--edge"), style("--accent")];
  const series = data.series.map((one, n) => ({ name: one.name, type: "bar", barMaxWidth: 18, itemStyle: { color: colors[n] }, data: one.usd }));
  const all = base();
  return { ...all, xAxis: { ...all.xAxis, type: "category", data: data.labels }, series };
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
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { tell(); draw(); });
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
      if (!row && !first && !document.querySelector("[data-account]")) return location.reload();
      if (!row) continue;
      if (account.ended) return location.reload();
      for (const name of ["spent", "held", "left", "share", "state", "icon"]) {
        const cell = row.querySelector(`[data-cell="${name}"]`);
        if (cell && cell.textContent !== String(account[name])) cell.textContent = account[name];
      }
      const gauge = row.querySelector('[data-cell="gauge"]');
      gauge.setAttribute("class", "gauge " + account.state.toLowerCase());
      gauge.setAttribute("aria-label", account.share + " % of the limit");
      gauge.querySelector(".fill").setAttribute("width", Math.floor(Math.min(account.share, 100) * 0.96));
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

// What is not filled in need not stand in the URL; a choice is shown at once.
function tidy(form) {
  form.addEventListener("formdata", ({ formData }) => [...formData].forEach(([name, text]) => text || formData.delete(name)));
  form.querySelectorAll("select").forEach((choice) => choice.addEventListener("change", () => form.requestSubmit()));
}

function zones() {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  for (const list of document.querySelectorAll("#zones")) {
    if (own && ![...list.options].some((option) => option.value === own)) list.append(new Option(own));
  }
}

// A part that is asked for when the session is over would be the login: show it as a page.
function guard() {
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (new URL(event.detail.xhr.responseURL).pathname !== "/login") return;
    event.detail.shouldSwap = false;
    location.reload();
  });
}

theme();
draw();
guard();
live();
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("table").forEach(downloadable);
document.querySelectorAll("form[data-tidy]").forEach(tidy);
zones();
addEventListener("resize", () => charts.forEach((chart) => chart.resize()));
