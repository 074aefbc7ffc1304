// Pictures of a batch: the grid, its search, and going from one to the next.
"use strict";

const MOST_TILES = 500;

// The grid holds only the tiles that can be seen, whatever the batch has: ids and states come by the stretch.
function showGrid(grid) {
  const all = +grid.dataset.total, gap = 10, tiles = new Map(), known = new Map();
  const search = $("[data-search]"), says = $("[data-found]"), hint = says.textContent;
  let total = all, columns = 1, side = 160, asking = false;
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
    const [id, state, , name] = known.get(index) || ["", "queued"];
    if (tile.dataset.state === state && tile.dataset.id === id) return;
    tile.dataset.state = state; tile.dataset.id = id;
    tile.className = `tile ${state}`;
    tile.title = name || "";
    if (state === "succeeded") {
      tile.href = `${grid.dataset.pages}/images/${id}`;
      tile.setAttribute("aria-label", name || `picture ${index + 1} of ${total}`);
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

  const searched = () => Boolean(search.elements.search.value.trim() || search.elements.state.value);

  // What is searched for takes the place of the whole batch, until nothing is. Again, it changes only what has changed.
  async function find(again) {
    const text = search.elements.search.value.trim(), state = search.elements.state.value;
    if (!searched()) {
      [total, says.textContent] = [all, hint];
      known.clear();
    } else {
      if (!again) says.textContent = "Searching …";
      const begun = performance.now();
      try {
        const found = await askJson(`${grid.dataset.tiles}/found?${new URLSearchParams({ search: text, ...(state && { state }) })}`);
        known.clear();
        found.tiles.forEach((tile, number) => known.set(number, tile));
        total = found.tiles.length;
        const count = `${found.more ? "The first " : ""}${total} ${total === 1 ? "image" : "images"}${found.more ? "; more words find fewer" : ""}`;
        if (says.textContent !== count) says.textContent = count;  // a reader says aloud what is set
      } catch (error) {
        if (!again) says.textContent = error.message;
        return;
      } finally { renew.pause_ms = 9 * (performance.now() - begun); }
    }
    if (!again) {
      for (const item of tiles.values()) item.remove();
      tiles.clear();
    }
    measure(); place(); learn();
  }

  let soon;
  async function seek(again) {  // one search at a time, and then the latest
    if (seek.busy) { seek.again = true; return; }
    seek.busy = true;
    do { seek.again = false; await find(again); again = false; } while (seek.again);
    seek.busy = false;
  }
  search.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(seek, 300); });
  search.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(soon); seek(); });

  // The batch has changed. A search reads all its rows: it may take a tenth of the time, so a long one comes seldom.
  function renew() {
    if (!searched()) return learn();
    renew.timer ??= setTimeout(() => { renew.timer = null; seek.busy ? renew() : seek(true); }, renew.pause_ms || 0);
  }

  async function learn() {
    if (asking || searched()) return;
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
  document.addEventListener("changed", renew);
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

$$(".grid[data-tiles]").forEach(showGrid);
$$(".picture").forEach(neighbours);
