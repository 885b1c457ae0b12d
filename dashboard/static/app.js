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
    itemStyle: { color: one.name === "other" ? style("--rest") : mixed((0.75 * n) / Math.max(1, own - 1), "--panel") },
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
  const line = (name, color, width, type, points) => ({ name, type: "line", symbol: "none", lineStyle: { color: style(color), width, type }, itemStyle: { color: style(color) }, data: points });
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
  const formatter = { year: "{yyyy}", month: "{d} {MMM}", day: "{d} {MMM}", hour: "{HH}:{mm}", minute: "{HH}:{mm}" };
  const drawn = { spent: "M0 0H22V2H0Z", forecast: "M0 0H6V2H0ZM8 0H14V2H8ZM16 0H22V2H16Z", limit: "M0 0H22V2H0Z", "hard cap": "M0 0H22V2H0Z" };
  const shown = Object.keys(drawn).filter((name) => name !== "forecast" || data.forecast);
  return {
    ...all, useUTC: true, series, tooltip: { show: false },
    xAxis: { ...all.xAxis, type: "time", min: start, max: end, axisLabel: { ...all.xAxis.axisLabel, formatter, alignMinLabel: "left", alignMaxLabel: "right" } },
    legend: { ...all.legend, itemWidth: 22, itemHeight: 2, data: shown.map((name) => ({ name, icon: "path://" + drawn[name] })) },
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
  if (typeof echarts === "undefined") return;
  for (const chart of charts.splice(0)) chart.dispose();
  for (const box of document.querySelectorAll("[data-chart]")) {
    const data = JSON.parse(document.getElementById(box.dataset.chart + "-data").textContent);
    if (!data) continue;
    box.append(document.createElement("div"));
    const chart = echarts.init(box, null, { renderer: "svg" });
    chart.setOption(makers[box.dataset.chart](data));
    charts.push(chart);
  }
  performance.mark("drawn");
}

// What can be read is shown first: the library of the charts is large.
function charted() {
  const library = document.getElementById("charts");
  if (!library) return;
  const script = Object.assign(document.createElement("script"), { src: library.href, onload: draw });
  requestAnimationFrame(() => setTimeout(() => document.head.append(script)));
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

// What is shown is asked for anew: soon after something has changed that a row can't show, but not with every call.
const AT_MOST_EVERY_MS = 5_000, LEDGER_BEHIND_MS = 2_000;
let renewed = 0, due = 0;
function renewSoon() {
  const fresh = document.getElementById("fresh");
  const typed = () => [...document.querySelectorAll("main input")].some((field) => field.value !== field.defaultValue);
  if (!fresh) return typed() || location.reload();
  if (due) return;
  due = setTimeout(() => { due = 0; renewed = Date.now(); htmx.trigger("#fresh", "renew"); }, Math.max(LEDGER_BEHIND_MS, renewed + AT_MOST_EVERY_MS - Date.now()));
}

function lost(is) {
  const note = document.querySelector("[data-lost]");
  if (note) note.hidden = !is;
}

function show(row, account) {
  for (const name of ["spent", "held", "left", "share", "state", "icon"]) {
    const cell = row.querySelector(`[data-cell="${name}"]`);
    if (cell && cell.textContent !== String(account[name])) cell.textContent = account[name];
  }
  const gauge = row.querySelector('[data-cell="gauge"]');
  gauge.setAttribute("class", "gauge " + account.state.toLowerCase());
  gauge.setAttribute("aria-label", account.share + " % of the limit");
  gauge.querySelector(".fill").setAttribute("width", Math.floor(Math.min(account.share, 100) * 0.96));
  row.querySelector(".state").className = "state " + account.state.toLowerCase();
}

// An account is told of that has no row: it belongs on the page if it is as full as those that have one.
function missing(account) {
  const part = document.querySelector("[data-grows]");
  return part && account.inForce && account.share >= Number(part.dataset.grows);
}

function live() {
  if (!document.querySelector("[data-account], [data-grows]")) return;
  let first = true;
  const source = new EventSource("/ui/events");
  source.onopen = () => { first = true; lost(false); };
  source.onerror = () => {
    lost(true);
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(live, AT_MOST_EVERY_MS);
    renewSoon(); // if the session is over, that leads to the login
  };
  source.onmessage = (message) => {
    for (const account of JSON.parse(message.data)) {
      const row = document.querySelector(`[data-account="${CSS.escape(account.account)}"]`);
      if (account.ended ? row : !row && missing(account)) renewSoon();
      if (account.ended || !row) continue;
      if (!first && row.querySelector('[data-cell="state"]').textContent !== account.state) renewSoon();
      show(row, account);
      if (!first) {
        row.classList.add("moved");
        setTimeout(() => row.classList.remove("moved"), 1200);
      }
    }
    document.querySelectorAll("table:has([data-account])").forEach(aligned);
    first = false;
  };
}

// Amounts of a column stand with their points below each other, however many decimals they need.
function aligned(table) {
  const columns = new Map();
  for (const cell of table.querySelectorAll("tbody td.n")) {
    const amount = /^[−+]?\$[\d,]+(?:\.(\d+))?$/.exec(cell.textContent.trim());
    if (amount) columns.set(cell.cellIndex, [...(columns.get(cell.cellIndex) ?? []), [cell, amount[1]?.length ?? -1]]);
  }
  for (const cells of columns.values()) {
    const most = Math.max(...cells.map(([, decimals]) => decimals));
    for (const [cell, decimals] of cells) cell.dataset.pad = "\u2007".repeat(most - decimals);
  }
}

function sort(table, at, up) {
  const value = (row) => { const cell = row.cells[at]; return cell?.dataset.sort ?? cell?.textContent.trim() ?? ""; };
  for (const [n, head] of [...table.tHead.rows[0].cells].entries()) {
    if (n === at) head.setAttribute("aria-sort", up ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => value(a).localeCompare(value(b), "en", { numeric: true }) * (up ? 1 : -1));
  table.tBodies[0].append(...rows);
}

function sortable(table) {
  for (const [at, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, at, head.getAttribute("aria-sort") === "descending"));
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

// What takes long says so, and is not asked for twice.
function slow(form) {
  form.addEventListener("submit", () => {
    const button = form.querySelector("button");
    button.textContent = form.dataset.slow;
    button.disabled = true;
  });
}

function zones() {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const asked = document.getElementById("zone");
  if (asked) asked.value = own ?? "";
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

function dress(part) {
  draw();
  part.querySelectorAll("table").forEach(aligned);
  part.querySelectorAll("table.sortable").forEach(sortable);
  part.querySelectorAll("table").forEach(downloadable);
}

// What a person has done to a part that is renewed: sorted, scrolled, unfolded, focused.
function doneTo(part) {
  const all = (selector) => [...part.querySelectorAll(selector)];
  const regions = all("[role=region]").map((region) => {
    const heads = [...(region.querySelector("thead tr")?.cells ?? [])];
    const at = heads.findIndex((head) => head.hasAttribute("aria-sort"));
    return [region.getAttribute("aria-label"), at, heads[at]?.getAttribute("aria-sort"), region.scrollLeft, region.scrollTop];
  });
  const focusable = "a, button, summary, [tabindex]";
  const name = (one) => [one.closest("[role=region]")?.getAttribute("aria-label"), one.tagName, one.getAttribute("href"), one.matches("a, button, summary") && one.textContent].join();
  const [open, focus] = [all("details").map(({ open }) => open), all(focusable).find((one) => one === document.activeElement)];
  return (now) => {
    for (const [label, at, order, left, top] of regions) {
      const region = now.querySelector(`[role=region][aria-label="${CSS.escape(label)}"]`);
      if (!region) continue;
      if (at >= 0) sort(region.querySelector("table"), at, order === "ascending");
      region.scrollTo(left, top);
    }
    now.querySelectorAll("details").forEach((details, n) => { details.open = open[n] ?? false; });
    if (focus) [...now.querySelectorAll(focusable)].find((one) => name(one) === name(focus))?.focus({ preventScroll: true });
  };
}

function renewable() {
  let restore = () => {}, dressed = document.getElementById("parts");
  for (const failed of ["htmx:responseError", "htmx:sendError"]) document.body.addEventListener(failed, () => lost(true));
  document.body.addEventListener("htmx:oobBeforeSwap", () => { restore = doneTo(document.getElementById("parts")); });
  document.body.addEventListener("htmx:oobAfterSwap", () => {
    const part = document.getElementById("parts");
    if (part === dressed) return; // it is told of more than once
    dressed = part;
    dress(part);
    restore(part);
  });
}

theme();
dress(document);
charted();
guard();
renewable();
live();
document.querySelectorAll("form[data-tidy]").forEach(tidy);
document.querySelectorAll("form[data-slow]").forEach(slow);
zones();
addEventListener("resize", () => charts.forEach((chart) => chart.resize()));
