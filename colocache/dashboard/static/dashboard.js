// Keeps a page of the dashboard up to date. Without it the page shows the same, until it is reloaded.
//
// The server sends the parts of the page anew, and what was counted since the samples that are known here. Workers of
// one host have all read the same counters, so samples of several workers are one history: the curves, and the figures
// of the last seconds, are made of them here. `charts.py`, `history.py` and `words.py` have the same for the first view.
"use strict";

(() => {
  const EVERY = 2000; // ms
  const RECENT = 10; // s
  const MOST = 240; // samples
  const WIDTH = 600;
  const HEIGHT = 120;
  const [READS, FOUND, LOADS, SECONDS, WORTH] = [0, 1, 2, 3, 4];
  const THIN = "\u202f";
  const DASH = "–";

  const samples = []; // [time, Map of lines by path; null is all together], the oldest first
  let isPaused = false;
  let failures = 0;
  let timer = 0;

  // --- Words

  const grouped = (value) => Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, THIN);
  const perSecond = (value) => (value > 0 && value < 9.95 ? value.toFixed(1) : grouped(value));
  const share = (value) => `${(100 * value).toFixed(1)}${THIN}%`;
  const duration = (s) => {
    if (s <= 0) return `0${THIN}s`;
    if (s < 0.0009995) return `${(s * 1e6).toFixed(0)}${THIN}µs`;
    if (s < 0.9995) return `${(s * 1e3).toFixed(s < 0.0995 ? 1 : 0)}${THIN}ms`;
    if (s < 120) return `${s.toFixed(1)}${THIN}s`;
    const minutes = Math.round(s / 60);
    if (minutes < 120) return `${minutes}${THIN}min`;
    const hours = Math.round(s / 3600);
    return hours < 48 ? `${hours}${THIN}h` : `${Math.round(hours / 24)}${THIN}d`;
  };
  const clock = (time) => new Date(time * 1000).toTimeString().slice(0, 8);
  const SHOWN = {
    reads: (value) => `${perSecond(value)}/s`,
    loads: (value) => `${perSecond(value)}/s`,
    saved: (value) => `${duration(value)}/s`,
    ratio: share,
  };
  const CALLED = { reads: "Reads", loads: "Loads", saved: "Time saved", ratio: "Hit ratio" };

  // --- What happened between two samples

  const value = (before, now, series, path) => {
    const [old, fresh] = [before[1].get(path), now[1].get(path)];
    const seconds = now[0] - before[0];
    if (!old || !fresh || seconds <= 0) return null;
    const [reads, found, loads] = [READS, FOUND, LOADS].map((place) => fresh[place] - old[place]);
    if (reads < 0 || found < 0 || loads < 0) return null; // the group has begun anew
    if (series === "ratio") return reads ? found / reads : null;
    return { reads, loads, saved: found * fresh[WORTH] }[series] / seconds;
  };

  const recent = (series, path) => {
    const now = samples.at(-1);
    if (samples.length < 2) return null;
    const before = samples.slice(0, -1).findLast((each) => now[0] - each[0] >= RECENT) ?? samples[0];
    return value(before, now, series, path);
  };

  const add = (newer) => {
    for (const [time, lines] of newer) {
      let place = samples.length;
      while (place && samples[place - 1][0] > time) place--;
      const isClose = [samples[place - 1], samples[place]].some((each) => each && Math.abs(each[0] - time) < 1);
      if (isClose && newer.length > 1) continue; // of another worker, at nearly the same time
      samples.splice(place, 0, [time, new Map(lines)]);
    }
    if (samples.length > MOST) {
      const old = samples.splice(0, samples.length - 60);
      samples.unshift(...old.filter((_, place) => place % 2 === 0));
    }
  };

  // --- Curves

  const edgeOf = (series, values) => {
    const most = Math.max(0, ...values);
    if (series === "ratio" || most <= 0) return 1;
    const step = 10 ** Math.floor(Math.log10(most));
    return [1, 2, 5, 10].map((factor) => factor * step).find((edge) => edge >= most) ?? 10 * step;
  };

  const draw = (svg) => {
    const series = svg.dataset.series;
    const path = svg.dataset.of ?? null;
    const points = [];
    for (let place = 1; place < samples.length; place++) {
      const one = value(samples[place - 1], samples[place], series, path);
      if (one !== null) points.push([samples[place][0], one]);
    }
    if (!points.length) return;
    const values = points.map((each) => each[1]);
    const edge = edgeOf(series, values);
    const [first, last] = [points[0][0], points.at(-1)[0]];
    const corners = points.map(([time, one]) => {
      const x = ((time - first) / (last - first || 1)) * WIDTH;
      return `${x.toFixed(1)},${(HEIGHT - Math.min(1, one / edge) * HEIGHT).toFixed(1)}`;
    });
    if (corners.length === 1) corners.push(`${WIDTH},${corners[0].split(",")[1]}`);
    const line = `M${corners.join("L")}`;
    svg.querySelector(".line").setAttribute("d", line);
    svg.querySelector(".area").setAttribute("d", `${line}L${WIDTH},${HEIGHT}L0,${HEIGHT}Z`);
    const show = SHOWN[series];
    const of = svg.dataset.name ? ` of ${svg.dataset.name}` : "";
    svg.setAttribute(
      "aria-label",
      `${CALLED[series]}${of} over time: now ${show(values.at(-1))}, lowest ${show(Math.min(...values))}, ` +
        `highest ${show(Math.max(...values))}`,
    );
    const figure = svg.closest("figure");
    if (figure) {
      figure.querySelector("[data-edge]").textContent = show(edge);
      figure.querySelector("[data-begin]").textContent = clock(first);
      figure.querySelector("[data-none]").hidden = true;
    }
  };

  const fill = (root) => {
    for (const each of root.querySelectorAll("[data-rate]")) {
      const one = recent(each.dataset.rate, each.dataset.of ?? null);
      if (one !== null) each.textContent = SHOWN[each.dataset.rate](one);
    }
    root.querySelectorAll("svg[data-series]").forEach(draw);
  };

  // --- The page

  // Where the keyboard is stays where it is, also if its part is replaced.
  const replace = (old, html) => {
    const template = document.createElement("template");
    template.innerHTML = html; // of our server, which has escaped every name
    const fresh = template.content.firstElementChild;
    fill(fresh);
    if (fresh.outerHTML === old.outerHTML) return;
    const selection = document.getSelection();
    if (!selection.isCollapsed && selection.containsNode(old, true)) return; // somebody copies something
    const focusable = (root) => [...root.querySelectorAll("a[href], button, input, [tabindex]")];
    const active = document.activeElement;
    const place = old.contains(active) ? focusable(old).indexOf(active) : -1;
    const href = active?.getAttribute?.("href");
    const scrolled = [...old.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    old.replaceWith(fresh);
    fresh.querySelectorAll(".scroll").forEach((each, at) => (each.scrollLeft = scrolled[at] ?? 0));
    if (place >= 0) {
      const now = focusable(fresh);
      (now.find((each) => href && each.getAttribute("href") === href) ?? now[place])?.focus({ preventScroll: true });
    }
  };

  const say = (text, state) => {
    const shown = document.getElementById("state");
    if (shown.textContent !== text) shown.textContent = text;
    document.body.dataset.state = state;
  };

  const look = async () => {
    const query = new URLSearchParams(location.search);
    query.set("live", "1");
    query.set("after", samples.length ? samples.at(-1)[0] : 0);
    try {
      const response = await fetch(`${location.pathname}?${query}`, { credentials: "same-origin", cache: "no-store" });
      if (response.status === 403) {
        location.reload();
        return;
      }
      if (!response.ok) throw new Error(`status ${response.status}`);
      const found = await response.json();
      if (!document.getElementById("figures")) {
        location.reload(); // somebody has come
        return;
      }
      add(found.samples);
      for (const [id, html] of Object.entries(found.parts)) {
        const old = document.getElementById(id);
        if (old) replace(old, html);
      }
      failures = 0;
      say("Live", "live");
    } catch {
      failures++;
      say(failures > 1 ? "No answer" : "Live", failures > 1 ? "lost" : "live");
    }
  };

  const go = async () => {
    clearTimeout(timer);
    if (isPaused || document.hidden) return;
    await look();
    clearTimeout(timer);
    timer = setTimeout(go, EVERY * Math.min(8, 2 ** failures));
  };

  const button = document.getElementById("pause");
  const toggle = () => {
    isPaused = !isPaused;
    button.setAttribute("aria-pressed", String(isPaused));
    say(isPaused ? "Paused" : "Live", isPaused ? "paused" : "live");
    go();
  };
  button.hidden = false;
  button.addEventListener("click", toggle);
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input, textarea, select");
    if (event.key === "p" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) toggle();
  });
  document.addEventListener("visibilitychange", go);
  go();
})();
