// Shades a text by how many of the chosen heads hold each token. What is chosen is in the address:
// #layer=3&head=1&step=2, none of them for all layers, all heads, the last look.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const number = (value) => value.toLocaleString("en");
  const data = JSON.parse(find("data").textContent);
  const { n_layers: nLayers, n_kv_heads: nHeads, steps, bits, units, sizes } = data;
  const nTokens = steps[steps.length - 1];
  const packed = Uint8Array.from(atob(data.gone), (c) => c.charCodeAt(0));
  const starts = [];  // position of each unit's first token
  sizes.reduce((pos, size) => (starts.push(pos), pos + size), 0);

  // The first look at which head row (layer * nHeads + head) had lost a token; see _text_view.py.
  const gone = (row, pos) => {
    const i = row * nTokens + pos;
    if (bits === 1) return (packed[i >> 3] >> (i & 7)) & 1;
    return bits === 8 ? packed[i] : packed[2 * i] | (packed[2 * i + 1] << 8);
  };

  const state = { layer: -1, head: -1, step: steps.length - 1 };  // -1: all
  const counts = new Uint16Array(nTokens);
  const text = find("text"), note = find("note");
  let spans = [], rows = [], here = -1;

  // Few heads are what one looks for, so that shades differ most where counts are low.
  const shadeOf = (share) => share ** 0.6;

  const visible = (string) => string.replace(/ /g, "\u2423").replace(/\n/g, "\u21b5")
    .replace(/\t/g, "\u21e5").replace(/\r/g, "\u240d");

  function build() {
    document.documentElement.dataset.ready = "no";
    const page = document.createDocumentFragment();
    spans = units.map((unit, i) => {
      const span = document.createElement("span");
      span.className = "t";
      span.dataset.pos = starts[i];
      unit.split("\n").forEach((part, nth) => {
        if (nth > 0) {
          const mark = document.createElement("i");
          mark.className = "nl";
          span.append(mark, "\n");
        }
        span.append(part);
      });
      page.append(span);
      return span;
    });
    text.append(page);
    for (const [id, name, n] of [["layer", "layers", nLayers], ["head", "heads", nHeads]]) {
      find(id).append(new Option(`all ${n} ${name}`, -1));
      for (let i = 0; i < n; i++) find(id).append(new Option(String(i), i));
    }
    const stops = [0, 0.03, 0.1, 0.25, 0.5, 0.75, 1].map((share) =>
      `rgb(var(--held) / calc(${shadeOf(share).toFixed(3)} * var(--most))) ${share * 100}%`);
    document.body.style.setProperty("--stops", stops.join(","));
    find("time").hidden = find("later").hidden = steps.length < 2;
    find("step").max = steps.length - 1;
    find("facts").textContent = `${number(nTokens)} tokens, ${nLayers} layers of ${nHeads} KV ` +
      `heads. The stronger a token's shade, the more heads still hold its key and value.`;
  }

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    const pick = (name, n, otherwise) => {
      const value = given.get(name);
      return /^\d+$/.test(value ?? "") && Number(value) < n ? Number(value) : otherwise;
    };
    state.layer = pick("layer", nLayers, -1);
    state.head = pick("head", nHeads, -1);
    state.step = pick("step", steps.length, steps.length - 1);
    find("layer").value = state.layer;
    find("head").value = state.head;
    find("step").value = state.step;
    draw();
  }

  function writeAddress() {
    const given = new URLSearchParams();
    if (state.layer >= 0) given.set("layer", state.layer);
    if (state.head >= 0) given.set("head", state.head);
    if (state.step < steps.length - 1) given.set("step", state.step);
    history.replaceState(null, "", `#${given}`);
  }

  function count() {
    const layers = state.layer < 0 ? [...Array(nLayers).keys()] : [state.layer];
    const heads = state.head < 0 ? [...Array(nHeads).keys()] : [state.head];
    rows = layers.flatMap((layer) => heads.map((head) => layer * nHeads + head));
    counts.fill(0);
    for (const row of rows)
      for (let pos = 0; pos < steps[state.step]; pos++)
        if (gone(row, pos) > state.step) counts[pos]++;
  }

  function draw() {
    count();
    const read = steps[state.step];
    spans.forEach((span, i) => {
      const own = counts.subarray(starts[i], starts[i] + sizes[i]);
      const share = own.reduce((a, b) => a + b, 0) / sizes[i] / rows.length;
      const shade = shadeOf(share).toFixed(3), held = own.join(" ");
      const kind = starts[i] >= read ? "t unread" : share > 0 ? "t" : "t none";
      if (span.dataset.held !== held) {
        span.dataset.held = held;
        span.style.setProperty("--s", shade);
      }
      if (span.className !== kind) span.className = kind;
    });
    let none = 0, held = 0;
    for (let pos = 0; pos < read; pos++) {
      held += counts[pos];
      if (counts[pos] === 0) none++;
    }
    find("all").textContent = rows.length === 1 ? "1: held" : `all ${rows.length} heads`;
    find("read").textContent = number(read);
    find("step").setAttribute("aria-valuetext", `${read} of ${nTokens} tokens read`);
    find("summary").textContent = `Of ${number(read)} tokens read a head holds ` +
      `${number(Math.round(held / rows.length))}${rows.length > 1 ? " on average" : ""}; ` +
      `${number(none)} ${rows.length > 1 ? "are held by none of them" : "were evicted"}.`;
    drawStrip();
    if (here >= 0) point(here, false);
    document.documentElement.dataset.ready = "yes";
  }

  // A canvas as sharp as the screen; returns its context, in CSS pixels.
  function canvasOf(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    return context;
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    return { held: value("--held").split(" ").join(","), line: value("--line") };
  }

  function drawStrip() {
    const canvas = find("strip"), width = canvas.clientWidth, height = canvas.clientHeight;
    const context = canvasOf(canvas, width, height), { held } = colours();
    for (let x = 0; x < width; x++) {
      const first = Math.floor((x * nTokens) / width);
      const end = Math.max(first + 1, Math.floor(((x + 1) * nTokens) / width));
      let sum = 0;
      for (let pos = first; pos < end; pos++) sum += counts[pos];
      context.fillStyle = `rgba(${held},${shadeOf(sum / (end - first) / rows.length)})`;
      context.fillRect(x, 0, 1, height);
    }
  }

  // Which heads hold a token, a cell each.
  function drawHeads(pos) {
    const cell = nLayers > 60 ? 4 : nLayers > 40 ? 6 : 9;
    const canvas = find("heads"), { held, line } = colours(), chosen = new Set(rows);
    canvas.style.width = `${nLayers * cell}px`;
    canvas.style.height = `${nHeads * cell}px`;
    const context = canvasOf(canvas, nLayers * cell, nHeads * cell);
    for (let row = 0; row < nLayers * nHeads; row++) {
      const x = Math.floor(row / nHeads) * cell, y = (row % nHeads) * cell;
      const holds = pos < steps[state.step] && gone(row, pos) > state.step;
      context.globalAlpha = chosen.has(row) ? 1 : 0.3;
      context.fillStyle = holds ? `rgb(${held})` : line;
      context.fillRect(x, y, cell - 1, cell - 1);
    }
  }

  function point(i, scroll) {
    if (here >= 0) spans[here].classList.remove("here");
    here = i;
    const span = spans[i], words = find("note-text");
    span.classList.add("here");
    const token = document.createElement("b");
    token.textContent = visible(units[i]);
    words.replaceChildren(token);
    for (let pos = starts[i]; pos < starts[i] + sizes[i]; pos++) {
      const says = pos >= steps[state.step] ? "not read yet"
        : `held by ${counts[pos]} of ${rows.length} ${rows.length > 1 ? "heads" : "head"}`;
      const line = document.createElement("div");
      line.textContent = `position ${number(pos)}: ${says}`;
      words.append(line);
    }
    drawHeads(starts[i]);
    note.hidden = false;
    if (scroll) span.scrollIntoView({ block: "nearest" });
    const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const below = box.bottom + note.offsetHeight + 10 < window.innerHeight;
    const left = Math.min(box.left, document.documentElement.clientWidth - note.offsetWidth - 8);
    const top = below ? box.bottom + 6 : box.top - note.offsetHeight - 6;
    note.style.left = `${Math.max(4, left) + window.scrollX}px`;
    note.style.top = `${top + window.scrollY}px`;
  }

  function leave() {
    if (here >= 0) spans[here].classList.remove("here");
    here = -1;
    note.hidden = true;
  }

  // The unit in the next line up (-1) or down (1) that is closest to the one pointed at.
  function nextLine(direction) {
    const from = spans[here].getClientRects()[0];
    let best = here, distance = Infinity, line = null;
    for (let i = here + direction; i >= 0 && i < spans.length; i += direction) {
      const box = spans[i].getClientRects()[0];
      if (!box || Math.abs(box.top - from.top) < 4) continue;
      line ??= box.top;
      if (Math.abs(box.top - line) >= 4) break;
      if (Math.abs(box.left - from.left) < distance) {
        distance = Math.abs(box.left - from.left);
        best = i;
      }
    }
    return best;
  }

  const steer = {
    ArrowRight: () => Math.min(here + 1, spans.length - 1),
    ArrowLeft: () => Math.max(here - 1, 0),
    ArrowDown: () => (here < 0 ? 0 : nextLine(1)),
    ArrowUp: () => (here < 0 ? 0 : nextLine(-1)),
    Home: () => 0,
    End: () => spans.length - 1,
  };

  function listen() {
    for (const name of ["layer", "head", "step"])
      find(name).addEventListener("input", (event) => {
        state[name] = Number(event.target.value);
        writeAddress();
        draw();
      });
    find("controls").addEventListener("submit", (event) => event.preventDefault());
    addEventListener("hashchange", readAddress);
    addEventListener("resize", drawStrip);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawStrip);
    // Not pointerover: text that the arrow keys scroll under a pointer at rest would take over.
    text.addEventListener("pointermove", (event) => {
      const span = event.target.closest(".t");
      const moved = event.movementX !== 0 || event.movementY !== 0;
      if (span && moved && span !== spans[here]) point(spans.indexOf(span), false);
    });
    text.addEventListener("pointerleave", () => {
      if (document.activeElement !== text) leave();
    });
    text.addEventListener("blur", leave);
    text.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in steer)) return;
      event.preventDefault();
      point(steer[event.key](), true);
    });
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
    });
    find("strip").addEventListener("click", (event) => {
      const pos = Math.floor((event.offsetX / event.target.clientWidth) * nTokens);
      const i = starts.findLastIndex((start) => start <= pos);
      spans[Math.max(0, i)].scrollIntoView({ block: "center" });
    });
  }

  build();
  listen();
  readAddress();
})();
