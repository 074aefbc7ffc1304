// The page's only script: parts that are live, the grid of pictures, buttons, the form. No library, nothing inline.
"use strict";

const LIVE_MS = 1500, CHECK_MS = 500, MOST_TILES = 500;
const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];

function toast(text) {
  const shown = $(".toast");
  shown.textContent = text;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { shown.textContent = ""; }, 6000);
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  if (answer.redirected && new URL(answer.url).pathname === "/login") { location.assign(answer.url); throw new Error("signed out"); }
  if (answer.status === 401) { location.assign("/login?next=" + encodeURIComponent(location.pathname)); throw new Error("signed out"); }
  return answer;
}

async function askJson(path, method = "GET", body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await ask(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (answer.status === 204) return {};
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(found.error?.message || `HTTP ${answer.status}`), { found: found.error });
  return found;
}

// Live parts: the server makes them anew; what has not changed stays, so that focus and selection do.
const rates = new Map();

function showRates() {
  for (const part of $$("[data-rate]")) {
    const id = part.dataset.rate, done = +part.dataset.done, now = performance.now();
    const seen = rates.get(id) || [];
    if (!seen.length || done < seen[0].done) seen.length = 0;
    if (!seen.length || done !== seen.at(-1).done || now - seen.at(-1).at > 10000) seen.push({ done, at: now });
    while (seen.length > 2 && now - seen[1].at > 300000) seen.shift();
    rates.set(id, seen);
    const minutes = (now - seen[0].at) / 60000, made = done - seen[0].done;
    if (part.dataset.running !== "1" || made < 1 || minutes < 0.05) continue;
    const rate = made / minutes, left = Math.max(1, Math.round((+part.dataset.total - done) / rate));
    const text = `${rate < 10 ? rate.toFixed(1) : Math.round(rate)} / min, ${left < 120 ? left + " min" : Math.round(left / 60) + " h"} left`;
    for (const shown of part.parentElement.querySelectorAll(".rate")) if (shown.closest("[data-rate]") === part || part.tagName !== "LI") shown.textContent = text;
  }
}

function keepLive(part) {
  let waiting = false, last = part.innerHTML;
  async function look() {
    if (waiting || document.hidden) return;
    waiting = true;
    try {
      const answer = await ask(part.dataset.live);
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      $(".outage").hidden = true;
      if (text !== last) {
        const focused = document.activeElement?.dataset?.act, opened = $$("details", part).map((one) => one.open);
        part.innerHTML = last = text;
        $$("details", part).forEach((one, number) => { if (number in opened) one.open = opened[number]; });
        if (focused) $(`[data-act="${CSS.escape(focused)}"]`, part)?.focus();
        document.dispatchEvent(new Event("changed"));
      }
      showRates();
    } catch (error) {
      if (error.message !== "signed out") $(".outage").hidden = false;
    } finally { waiting = false; }
  }
  setInterval(look, LIVE_MS);
  document.addEventListener("visibilitychange", look);
  part.look = look;
  showRates();
}

// The grid holds only the tiles that can be seen, whatever the batch has: ids and states come by the stretch.
function showGrid(grid) {
  const total = +grid.dataset.total, gap = 10, tiles = new Map(), known = new Map();
  let columns = 1, side = 160, asking = false;
  const label = { queued: "waiting", running: "rendering", failed: "failed", cancelled: "cancelled" };

  function measure() {
    const width = grid.clientWidth;
    columns = Math.max(2, Math.floor((width + gap) / (170 + gap)));
    side = (width - gap * (columns - 1)) / columns;
    grid.style.height = `${Math.ceil(total / columns) * (side + gap)}px`;
  }

  function seen() {
    const top = -grid.getBoundingClientRect().top, row = side + gap;
    const first = Math.max(0, Math.floor(top / row) - 2) * columns;
    const last = Math.min(total, (Math.ceil((top + innerHeight) / row) + 2) * columns);
    return [Math.min(first, total), Math.max(first, last)];
  }

  function draw(tile, index) {
    const [id, state] = known.get(index) || ["", "queued"];
    if (tile.dataset.state === state && tile.dataset.id === id) return;
    tile.dataset.state = state; tile.dataset.id = id;
    tile.className = `tile ${state}`;
    if (state === "succeeded") {
      tile.href = `${grid.dataset.pages}/images/${id}`;
      tile.setAttribute("aria-label", `picture ${index + 1} of ${total}`);
      const image = new Image();
      image.alt = ""; image.decoding = "async";
      image.src = `${grid.dataset.files}/images/${id}/thumbnail`;
      image.onerror = () => { image.onerror = null; image.src = `${grid.dataset.files}/images/${id}/file`; };
      tile.replaceChildren(image);
    } else {
      tile.removeAttribute("href");
      tile.removeAttribute("aria-label");
      tile.textContent = label[state] || state;
    }
  }

  function place() {
    const [first, last] = seen();
    for (const [index, item] of tiles) if (index < first || index >= last) { item.remove(); tiles.delete(index); }
    for (let index = first; index < last; index++) {
      let item = tiles.get(index);
      if (!item) {
        item = document.createElement("div");
        item.setAttribute("role", "listitem");
        const tile = document.createElement("a");
        tile.dataset.index = index;
        item.append(tile);
        tiles.set(index, item);
        grid.append(item);
      }
      const tile = item.firstChild;
      draw(tile, index);
      Object.assign(tile.style, { width: `${side}px`, height: `${side}px`, left: `${(index % columns) * (side + gap)}px`, top: `${Math.floor(index / columns) * (side + gap)}px` });
    }
  }

  async function learn() {
    if (asking) return;
    asking = true;
    try {
      const [first, last] = seen();
      for (let from = first; from < last; from += MOST_TILES) {
        const found = await askJson(`${grid.dataset.tiles}?first=${from}&count=${Math.min(MOST_TILES, last - from)}`);
        found.tiles.forEach((tile, number) => known.set(found.first + number, tile));
      }
      place();
    } catch { /* the live part says that something is away */ } finally { asking = false; }
  }

  let timer;
  addEventListener("scroll", () => { place(); clearTimeout(timer); timer = setTimeout(learn, 60); }, { passive: true });
  addEventListener("resize", () => { measure(); place(); learn(); });
  document.addEventListener("changed", learn);
  grid.addEventListener("keydown", (event) => {
    const at = event.target.dataset?.index, step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (at === undefined || !step) return;
    const next = tiles.get(+at + step)?.firstChild;
    if (next?.href) { event.preventDefault(); next.focus(); }
  });
  measure(); place(); learn();
}

function neighbours(picture) {
  addEventListener("keydown", async (event) => {
    if (event.target.closest("input, textarea, dialog") || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") location.assign(picture.dataset.pages);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const index = +picture.dataset.index + (step || 0);
    if (!step || index < 0) return;
    const found = await askJson(`${picture.dataset.tiles}?first=${index}&count=1`);
    if (found.tiles[0]?.[1] === "succeeded") location.assign(`${picture.dataset.pages}/images/${found.tiles[0][0]}`);
  });
}

async function copy(text) {
  try { await navigator.clipboard.writeText(text); toast("Copied"); } catch { toast("The browser does not let us copy; select the text instead"); }
}

async function again(button) {
  const { custom_id: name, ...row } = JSON.parse(button.dataset.again);
  if (!("keepSeed" in button.dataset)) row.seed = crypto.getRandomValues(new Uint32Array(1))[0] % 2147483648;
  const made = await askJson("/api/batches", "POST", { prompts: [{ custom_id: name, ...row }] });
  location.assign(`/batches/${made.batch}`);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { act, copy: text, copyFrom, share, stopSharing, confirm: question } = button.dataset;
  if (text !== undefined) return copy(text);
  if (copyFrom) return copy($(copyFrom).value);
  if ("close" in button.dataset) return button.closest("dialog").close();
  if (!act && !share && !stopSharing && !button.dataset.again) return;
  if (question && !confirm(question)) return;
  button.disabled = true;
  try {
    if (button.dataset.again) return await again(button);
    if (share) {
      const made = await askJson(`/api/batches/${share}/share`, "POST");
      $("#share-url").value = made.url;
      $("dialog").showModal();
    } else if (stopSharing) {
      await askJson(`/api/batches/${stopSharing}/share`, "DELETE");
      $("dialog").close();
      toast("Links to this batch work no more");
    } else {
      await askJson(act, "POST");
      if ("reload" in button.dataset) location.reload();
      $$("[data-live]").forEach((part) => part.look());
    }
  } catch (error) { toast(error.message); } finally { button.disabled = false; }
});

function submitForm(form) {
  const errors = $(".errors", form), estimate = $(".estimate", form), file = $("#file", form);
  let uploaded = null, timer, turn = 0;

  function body() {
    const options = {};
    for (const name of ["size", "model", "negative_prompt", "steps", "guidance_scale", "num_images", "seed"]) {
      const field = form.elements[name];
      if (field.value !== "") options[name] = field.type === "number" ? +field.value : field.value;
    }
    const lines = form.elements.prompts.value.split("\n").filter((line) => line.trim() !== "");
    return { ...(uploaded ? { input_file: uploaded.id } : { prompts: lines }), options };
  }

  function showErrors(found, total, title) {
    errors.hidden = total === 0;
    $("h2", errors).textContent = title || `${total.toLocaleString("en")} ${total === 1 ? "error" : "errors"}: nothing is accepted until they are mended`;
    $("tbody", errors).replaceChildren(...found.slice(0, 1000).map((one) => {
      const row = document.createElement("tr");
      for (const value of [one.line ?? "", one.field ?? "", one.message]) row.append(Object.assign(document.createElement("td"), { textContent: value }));
      return row;
    }));
  }

  const span = (seconds) => seconds < 90 ? `${Math.round(seconds)} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;

  async function check() {
    const wanted = body(), mine = ++turn;
    if (!uploaded && wanted.prompts.length === 0) { showErrors([], 0); estimate.textContent = "Type a prompt, and an estimate appears here."; return; }
    estimate.textContent = "Checking …";
    try {
      const found = await askJson("/api/validate", "POST", wanted);
      if (mine !== turn) return;
      showErrors(found.errors, found.total);
      if (!found.acceptable) { estimate.textContent = `${found.rows.toLocaleString("en")} rows are right.`; return; }
      const cost = await askJson("/api/estimate", "POST", wanted);
      if (mine === turn) estimate.textContent = `${cost.images.toLocaleString("en")} images, about ${span(cost.wall_s)} on ${cost.pods} ${cost.pods === 1 ? "pod" : "pods"}, ${cost.gpu_hours < 0.1 ? "under 0.1" : cost.gpu_hours.toFixed(1)} GPU hours${cost.learned ? "" : " (assumed; nothing was measured yet)"}`;
    } catch (error) {
      if (mine !== turn) return;
      const listed = error.found?.errors;
      showErrors(listed || [{ message: error.message }], error.found?.total || (listed || [1]).length);
      estimate.textContent = "";
    }
  }

  function soon() { clearTimeout(timer); timer = setTimeout(check, CHECK_MS); }

  async function upload(one) {
    if (!one) { uploaded = null; return check(); }
    estimate.textContent = `Sending ${one.name} …`;
    const form = new FormData();
    form.append("file", one);
    const tenant = $("#tenant")?.value;
    try {
      const answer = await ask("/api/files" + (tenant ? `?tenant=${encodeURIComponent(tenant)}` : ""), { method: "POST", body: form });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error.message);
      uploaded = found;
      check();
    } catch (error) { uploaded = null; showErrors([{ message: error.message }], 1); estimate.textContent = ""; }
  }

  form.addEventListener("input", (event) => {
    if (event.target === file) return;
    if (event.target === form.elements.prompts) { uploaded = null; file.value = ""; }  // what was done last counts
    soon();
  });
  file.addEventListener("change", () => upload(file.files[0]));
  addEventListener("dragover", (event) => { event.preventDefault(); form.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) form.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    if (event.dataTransfer.files.length) { file.files = event.dataTransfer.files; upload(file.files[0]); }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const more = { priority: $("#priority").value === "" ? undefined : +$("#priority").value, batch_id: $("#id").value || undefined, tenant: $("#tenant")?.value || undefined };
    const button = $(".send button", form);
    button.disabled = true;
    try {
      const made = await askJson("/api/batches", "POST", { ...body(), ...more });
      location.assign(`/batches/${made.batch}`);
    } catch (error) {
      const listed = error.found?.errors;
      showErrors(listed || [{ message: error.message }], error.found?.total || (listed || [1]).length);
      button.disabled = false;
      errors.scrollIntoView({ block: "nearest" });
    }
  });
}

async function openShare(part) {
  try {
    const found = await askJson("/share", "POST", { secret: location.hash.slice(1) });
    location.replace(found.to);
  } catch (error) { $("h1", part).textContent = "This link does not work"; $("p", part).textContent = error.message; }
}

$$("[data-live]").forEach(keepLive);
$$(".grid[data-tiles]").forEach(showGrid);
$$(".picture").forEach(neighbours);
$$("[data-submit]").forEach(submitForm);
$$("[data-open-share]").forEach(openShare);
const wait = $("[data-reload='5']");
if (wait) setTimeout(() => location.reload(), 5000);
