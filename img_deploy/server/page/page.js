"use strict";

const BEST = 10;
const HEADS = [["fused", "saliency"], ["visual", "saliency_visual"], ["audio", "saliency_audio"]];
const TALL = 100;
const at = (id) => document.getElementById(id);
const chosen = new Set();
let known = [];
let asked = 0;

function headers() {
  const token = at("token").value;
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  options.headers = { ...headers(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer.");
  }
  const content = await reply.json().catch(() => ({}));
  if (reply.status === 401) {
    at("access").hidden = false;
    at("access").open = true;
  }
  if (!reply.ok) throw new Error(content.error || `The server answers with status ${reply.status}.`);
  return content;
}

function tell(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

// Videos

async function loadVideos() {
  const facts = await call("v1/bundle");
  at("facts").textContent = `${facts.videos} videos · ${facts.backend} · ${facts.precision}`;
  if (facts.takes !== "sentences") {
    throw new Error(`This server takes ${facts.takes}, which a page cannot make; ask it through its API.`);
  }
  known = await allVideos();
  showVideos();
  if (!facts.videos) tell("The library is empty: POST features to /v1/videos, or serve a folder or an index.");
}

async function allVideos() {
  const found = [];
  let part;
  do {
    part = (await call(`v1/videos?limit=1000&after=${encodeURIComponent(found.at(-1)?.vid ?? "")}`)).videos;
    found.push(...part);
  } while (part.length === 1000);
  return found;
}

function showVideos() {
  const part = at("filter").value.toLowerCase();
  const shown = known.filter((video) => video.vid.toLowerCase().includes(part)).slice(0, 200);
  at("videos").replaceChildren(...shown.map((video) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = chosen.has(video.vid);
    box.addEventListener("change", () => {
      chosen[box.checked ? "add" : "delete"](video.vid);
      showChoice();
    });
    const label = document.createElement("label");
    label.append(box, ` ${video.vid}`);
    label.title = video.vid;
    return label;
  }));
}

function showChoice() {
  const names = [...chosen];
  const more = names.length > 3 ? ` and ${names.length - 3} more` : "";
  at("chosen").textContent = names.length ? names.slice(0, 3).join(", ") + more : "all videos";
}

// Search

async function search(event) {
  event.preventDefault();
  const turn = ++asked;
  const query = at("query").value.trim();
  if (!query) return tell("Say what happens, in a sentence.", true);
  tell("Searching …");
  at("results").replaceChildren();
  try {
    if (!known.length) await loadVideos();
    const videos = chosen.size ? [...chosen] : null;
    const found = await call("v1/ground", { query, videos, best: BEST, curves: true });
    if (turn !== asked) return;
    const playable = new Set(known.filter((video) => video.media).map((video) => video.vid));
    found.answers.forEach((row, index) => at("results").append(result(row, found.curves[index], playable.has(row.vid))));
    const count = found.answers.length;
    const said = count ? `${count} ${count === 1 ? "moment" : "moments"}, best first.` : "No moments: the library is empty.";
    tell([said, ...found.remarks.map((line) => `Note: ${line}.`), ...found.skipped.map((line) => `Left out: ${line}`)].join(" "));
  } catch (error) {
    if (turn === asked) tell(error.message, true);
  }
}

function result(row, curves, playable) {
  const item = at("result").content.cloneNode(true).firstElementChild;
  const part = (name) => item.querySelector(name);
  const [from, to] = row.fractions[0];
  part(".vid").textContent = row.vid;
  part(".when").textContent = `${time(row, from)} – ${time(row, to)}`;
  const sound = row.importance === null ? "no sound: by sight alone" : `weight of the sound ${percent(row.importance)}`;
  part(".about").textContent = `${row.times_chance.toFixed(1)} × chance · ${sound}`;
  draw(part(".chart"), part(".reading"), row, curves);
  if (playable) {
    const button = part(".play");
    button.hidden = false;
    button.addEventListener("click", () => play(part("video"), row));
  }
  return item;
}

const percent = (share) => `${Math.round(100 * share)}%`;

function time(row, fraction) {
  if (row.duration === null) return percent(fraction);
  const seconds = fraction * row.duration;
  const minutes = Math.floor(seconds / 60);
  return minutes ? `${minutes}:${(seconds % 60).toFixed(1).padStart(4, "0")}` : `${seconds.toFixed(1)} s`;
}

// Timeline: each curve in its own scale, since the network leaves the scale of a saliency free

function draw(chart, reading, row, curves) {
  const lines = HEADS.filter(([, key]) => curves[key]).map(([name, key]) => [name, scaled(curves[key])]);
  if (row.head === "visual") lines[0][0] = "visual";
  const wide = row.clips;
  const svg = shape("svg", { viewBox: `0 0 ${wide} ${TALL}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const [from, to] = row.fractions[0];
  svg.append(shape("rect", { class: "moment", x: from * wide, y: 0, width: (to - from) * wide, height: TALL }));
  svg.append(shape("line", { class: "axis", x1: 0, x2: wide, y1: TALL, y2: TALL }));
  for (const [name, values] of lines) svg.append(shape("path", { class: `curve ${name}`, d: path(values) }));
  const cursor = shape("line", { class: "cursor", x1: 0, x2: 0, y1: 0, y2: TALL, visibility: "hidden" });
  svg.append(cursor);
  const scale = document.createElement("div");
  scale.className = "scale";
  scale.append(...[0, 0.5, 1].map((fraction) => Object.assign(document.createElement("span"), { textContent: time(row, fraction) })));
  chart.append(svg, scale);

  let clip = row.spans[0][0];
  const show = (next) => {
    clip = Math.min(wide - 1, Math.max(0, next));
    const middle = clip + 0.5;
    for (const [name, value] of [["x1", middle], ["x2", middle], ["visibility", "visible"]]) cursor.setAttribute(name, value);
    const when = `${time(row, clip / wide)} – ${time(row, (clip + 1) / wide)}`;
    const values = lines.map(([name, values]) => [name, percent(values[clip])]);
    reading.replaceChildren(`${when}: `, ...values.flatMap(([name, value]) => [legend(name), ` ${value} `]));
    chart.setAttribute("aria-valuenow", clip);
    chart.setAttribute("aria-valuetext", `${when}: ${values.map((pair) => pair.join(" ")).join(", ")}`);
  };
  chart.setAttribute("aria-valuemin", 0);
  chart.setAttribute("aria-valuemax", wide - 1);
  chart.setAttribute("aria-valuenow", clip);
  reading.replaceChildren("Saliency: ", ...lines.flatMap(([name]) => [legend(name), " "]));
  chart.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(Math.floor(((event.clientX - box.left) / box.width) * wide));
  });
  chart.addEventListener("focus", () => show(clip));
  chart.addEventListener("keydown", (event) => {
    const next = { ArrowLeft: clip - 1, ArrowRight: clip + 1, Home: 0, End: wide - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(next);
  });
}

function scaled(values) {
  const low = Math.min(...values);
  const range = Math.max(...values) - low || 1;
  return values.map((value) => (value - low) / range);
}

function path(values) {
  const points = values.map((value, clip) => `${clip + 0.5} ${(TALL * (1 - value)).toFixed(1)}`);
  const last = points[points.length - 1].split(" ")[1];
  return `M0 ${points[0].split(" ")[1]}L${points.join("L")}L${values.length} ${last}`;
}

function legend(name) {
  return Object.assign(document.createElement("b"), { className: name, textContent: name });
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Playing: a browser asks for a video without headers of ours, so a token goes in a cookie for that path alone

function play(video, row) {
  const token = at("token").value;
  if (token) document.cookie = `img_deploy_token=${encodeURIComponent(token)}; path=/v1/media; samesite=strict`;
  const [from] = row.fractions[0];
  const begin = () => {
    video.currentTime = from * (row.duration ?? video.duration);
    video.play().catch((error) => tell(`The video does not play: ${error.message}`, true));
  };
  video.hidden = false;
  if (video.readyState) return begin();
  video.addEventListener("loadedmetadata", begin, { once: true });
  video.addEventListener("error", () => tell("The video cannot be played by this browser.", true), { once: true });
  video.preload = "auto";
  video.src = `v1/media/${encodeURIComponent(row.vid)}`;
}

at("search").addEventListener("submit", search);
at("filter").addEventListener("input", showVideos);
at("all").addEventListener("click", () => {
  chosen.clear();
  showVideos();
  showChoice();
});
at("token").addEventListener("change", () => loadVideos().then(() => tell(""), (error) => tell(error.message, true)));
loadVideos().catch((error) => tell(error.message, true));
