// The form: prompts or a file, checked while it is filled in.
"use strict";

const CHECK_MS = 500;

function submitForm(form) {
  const errors = $(".errors", form), notes = $(".notes", form), estimate = $(".estimate", form), file = $("#file", form);
  let uploaded = null, timer, turn = 0, sent = 0, sending = Promise.resolve(), lost = false;

  function valueOf(field) {
    if (field.type !== "number") return field.value;
    const value = +field.value, name = form.querySelector(`label[for="${field.id}"]`).textContent;
    if (Number.isInteger(value) && !Number.isSafeInteger(value)) {  // another number would be sent
      throw new Error(`${name}: ${field.value} found; at most ${Number.MAX_SAFE_INTEGER} wanted here, a larger one in a file`);
    }
    return value;
  }

  function body() {
    const options = {}, net = {};
    const names = ["size", "model", "negative_prompt", "steps", "guidance_scale", "num_images", "seed", "image", "strength", "fit", "mask", "mask_feather", "mask_rounds"];
    for (const field of names.map((name) => form.elements[name])) if (field.value !== "") options[field.name] = valueOf(field);
    for (const field of $$("[data-control]", form)) if (field.value !== "") net[field.dataset.control] = valueOf(field);
    if (net.model || net.image) options.control = [net];
    const lines = form.elements.prompts.value.split("\n").filter((line) => line.trim() !== "");
    const settings = form.elements.override.checked ? { override: options } : { options };
    const tenant = $("#tenant", form)?.value || undefined;
    return { tenant, ...(uploaded ? { input_file: uploaded.id } : { prompts: lines }), ...settings };
  }

  // What is accepted all the same, and what a setting does not reach.
  function showNotes({ rows, warnings, unreached }) {
    const all = [
      ...Object.entries(unreached).map(([name, count]) => `${name.replaceAll("_", " ")}: ${count.toLocaleString("en")} of ${rows.toLocaleString("en")} rows say their own, which comes first`),
      ...warnings.slice(0, 50).map(({ line, field, message, rows: some }) => `Line ${line}${some > 1 ? ` (and ${(some - 1).toLocaleString("en")} more)` : ""}: ${field ? field + ": " : ""}${message}`),
    ];
    notes.hidden = all.length === 0;
    notes.replaceChildren(...all.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
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
    const mine = ++turn;
    notes.hidden = true;
    try {
      const wanted = body();
      if (!uploaded && wanted.prompts.length === 0) { showErrors([], 0); estimate.textContent = "Type a prompt, and an estimate appears here."; return; }
      estimate.textContent = "Checking …";
      const found = await askJson("/api/validate", "POST", wanted);
      if (mine !== turn) return;
      showErrors(found.errors, found.total);
      showNotes(found);
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

  async function send(one, purpose) {
    estimate.textContent = `Sending ${one.name} …`;
    const body = new FormData();
    body.append("purpose", purpose);
    body.append("file", one);
    const tenant = $("#tenant")?.value;
    const answer = await ask("/api/files" + (tenant ? `?tenant=${encodeURIComponent(tenant)}` : ""), { method: "POST", body });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error.message);
    return found;
  }

  async function upload(one) {
    const mine = ++sent;
    uploaded = null;
    if (!one) return check();
    try {
      const found = await send(one, "prompts");
      if (mine !== sent) return;
      uploaded = found;
      check();
    } catch (error) { if (mine === sent) { showErrors([{ message: error.message }], 1); estimate.textContent = ""; } }
  }

  // A file of the user's, whose id stands in the field then.
  async function uploadPicture(picked) {
    const field = $(picked.dataset.picture, form), one = picked.files[0];
    if (!one) return;
    try {
      field.value = `upload://${(await send(one, "picture")).id}`;
      check();
    } catch (error) { picked.value = ""; lost = true; showErrors([{ field: field.id, message: error.message }], 1); estimate.textContent = ""; }
  }

  form.addEventListener("input", (event) => {
    if (event.target.type === "file" || (event.target.id === "tenant" && file.files.length)) return;
    if (event.target === form.elements.prompts) { uploaded = null; sent++; file.value = ""; }  // what was done last counts
    soon();
  });
  const pictures = $$("[data-picture]", form);
  const sends = (promise) => { sending = Promise.all([sending, promise]); };
  file.addEventListener("change", () => sends(upload(file.files[0])));
  for (const picked of pictures) picked.addEventListener("change", () => sends(uploadPicture(picked)));
  $("#tenant", form)?.addEventListener("change", () => {  // each has its own files
    if (file.files.length) sends(upload(file.files[0]));
    for (const picked of pictures) sends(uploadPicture(picked));
  });
  addEventListener("dragover", (event) => { event.preventDefault(); form.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) form.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    if (event.dataTransfer.files.length) { file.files = event.dataTransfer.files; sends(upload(file.files[0])); }
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const more = { priority: $("#priority").value === "" ? undefined : +$("#priority").value, batch_id: $("#id").value || undefined };
    const button = $(".send button", form);
    button.disabled = true;
    await sending;
    if (lost || (file.files.length && !uploaded)) { lost = button.disabled = false; return; }  // it says why
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

$$("[data-submit]").forEach(submitForm);
