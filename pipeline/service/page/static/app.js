// What all pages share: asking the service, parts that are live, buttons. No library, nothing inline.
// Pictures are in grid.js, the form in submit.js; these run after this one.
"use strict";

const LIVE_MS = 1500;
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
  const headers = { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
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

async function copy(text) {
  try { await navigator.clipboard.writeText(text); toast("Copied"); } catch { toast("The browser does not let us copy; select the text instead"); }
}

// The service makes the row: seeds and metadata may be larger than what a number here holds exactly.
async function again({ dataset: { again: path, longerSide: side } }) {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0] % 2147483648;
  const made = await askJson(path, "POST", side ? { longer_side: +side } : { seed });
  location.assign(`/batches/${made.batch}`);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { act, copy: text, copyFrom, share, stopSharing, dialog, priority, confirm: question } = button.dataset;
  if (text !== undefined) return copy(text);
  if (copyFrom) return copy($(copyFrom).value);
  if ("close" in button.dataset) return button.closest("dialog").close();
  if (dialog) return $(dialog).showModal();
  if (!act && !share && !stopSharing && !priority && !button.dataset.again) return;
  if (question && !confirm(question)) return;
  button.disabled = true;
  try {
    if (button.dataset.again) return await again(button);
    if (share) {
      const made = await askJson(`/api/batches/${share}/share?hours=${$("#share-hours").value}`, "POST");
      $("#share-url").value = made.url;
      $("[data-made]").hidden = false;
      $("#share-url").select();
    } else if (stopSharing) {
      await askJson(`/api/batches/${stopSharing}/share`, "DELETE");
      $("#share").close();
      toast("Links to this batch work no more");
    } else if (priority) {
      await askJson(`/api/batches/${priority}/priority`, "POST", { priority: +$("#priority-now").value });
      $("#priority").close();
      $$("[data-live]").forEach((part) => part.look());
    } else {
      await askJson(act, "POST");
      if ("reload" in button.dataset) location.reload();
      $$("[data-live]").forEach((part) => part.look());
    }
  } catch (error) { toast(error.message); } finally { button.disabled = false; }
});

async function openLink(part) {
  try {
    const found = await askJson(part.dataset.open, "POST", { secret: location.hash.slice(1) });
    location.replace(found.to);
  } catch (error) { $("h1", part).textContent = "This link does not work"; $("p", part).textContent = error.message; }
}

$$("[data-live]").forEach(keepLive);
$$("[data-open]").forEach(openLink);
const wait = $("[data-reload='5']");
if (wait) setTimeout(() => location.reload(), 5000);
