"use strict";
// Makes quick what works without it: theme, times in the reader's zone, copying, the keyboard.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, scope = document) => scope.querySelectorAll(selector);
  const announce = (text) => { document.getElementById("announce").textContent = text; };

  // Times: the server wrote UTC, the reader sees their own zone and a relative time that stays true.
  const units = [[31536000, "year"], [2592000, "month"], [86400, "day"], [3600, "hour"], [60, "minute"]];
  const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: "long", timeStyle: "long" });
  const hours = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  const moment = (at) => at.toDateString() === new Date().toDateString() ? hours.format(at) : `${day.format(at)} ${hours.format(at)}`;
  function relative(at) {
    const elapsed = (Date.now() - at) / 1000;
    // What is almost 7 days ahead is in 7 days.
    const seconds = elapsed < 0 ? elapsed * 1.01 : elapsed;
    for (const [size, unit] of units) {
      const count = Math.floor(Math.abs(seconds) / size);
      if (count >= 1) {
        const words = `${count} ${unit}${count === 1 ? "" : "s"}`;
        return seconds > 0 ? `${words} ago` : `in ${words}`;
      }
    }
    return seconds >= 0 ? "just now" : "in less than a minute";
  }
  function showTimes(scope = document) {
    for (const time of all("time[data-relative], time[data-clock], time[data-absolute]", scope)) {
      const at = new Date(time.dateTime);
      time.title = absolute.format(at);
      const text = time.hasAttribute("data-clock") ? moment(at) : time.hasAttribute("data-absolute") ? time.title : relative(at);
      if (time.textContent !== text) time.textContent = text;
    }
  }
  showTimes();
  setInterval(showTimes, 20000);

  // The message after a redirect is said once: reloading the page does not repeat it.
  const address = new URL(location.href);
  if (address.searchParams.has("done")) {
    address.searchParams.delete("done");
    history.replaceState(history.state, "", address);
  }

  // What this page made is not made again by reloading it.
  const settled = document.querySelector("[data-settled]");
  if (settled) history.replaceState(history.state, "", settled.dataset.settled);

  // Focus goes where the change is.
  const focusChange = (scope) => {
    const target = scope.querySelector("[data-focus]") || scope.querySelector("[aria-invalid=true]");
    if (target) target.focus();
  };
  focusChange(document);
  // What a reader unfolded, and the field they type in, stay so when a live page renews itself.
  let unfolded = [];
  let typing = "";
  let newer = false;
  document.addEventListener("htmx:before:swap", (event) => {
    newer = Boolean(event.detail?.ctx?.sourceElement?.matches?.(".new-bar"));
    unfolded = [...all("#content details[open] > summary")].map((summary) => summary.textContent);
    typing = document.activeElement?.id ?? "";
  });
  document.addEventListener("htmx:after:swap", (event) => {
    showTimes();
    if (event.detail?.ctx?.request?.method?.toUpperCase() === "POST") {
      const change = document.querySelector("#flash .alert, [data-focus]") ?? document.getElementById(typing);
      if (!change) return;
      if (!change.matches("input, select, textarea, button")) change.tabIndex = -1;
      return change.focus();
    }
    // Who asks for the new rows is at the first of them.
    if (newer) document.querySelector("#history [data-row] a")?.focus({ preventScroll: true });
    for (const summary of all("#content details > summary")) if (unfolded.includes(summary.textContent)) summary.parentElement.open = true;
    if (typing && document.activeElement === document.body) document.getElementById(typing)?.focus({ preventScroll: true });
  });

  // A failure of the network itself: say what happened and what to do.
  document.addEventListener("htmx:error", (event) => {
    if (event.detail?.ctx?.response || event.target.closest?.("[data-live]")) return;
    const flash = document.getElementById("flash");
    if (!flash) return;
    const alert = document.createElement("div");
    alert.className = "alert alert-danger";
    alert.setAttribute("role", "alert");
    alert.textContent = "The portal did not answer. Nothing was changed as far as we know; check your connection and try again.";
    flash.replaceChildren(alert);
  });

  const byReader = (event) => !event.detail.ctx.sourceElement?.closest("[data-live]");
  // Changes are told by a stream. Where the session has ended, say so and let be what is typed here.
  const ended = () => document.getElementById("session-ended");
  function sessionEnded() {
    const flash = document.getElementById("flash");
    if (!flash || ended()) return;
    const alert = document.createElement("div");
    alert.id = "session-ended";
    alert.className = "alert alert-warning";
    alert.setAttribute("role", "alert");
    const link = document.createElement("a");
    link.href = `/login?next=${encodeURIComponent(location.pathname)}`;
    link.target = "_blank";
    link.textContent = "Sign in again";
    alert.append("Your session has ended, so this page no longer shows what changes. ", link, " in a new tab; what you typed here stays.");
    flash.replaceChildren(alert);
  }
  document.addEventListener("htmx:after:request", (event) => {
    if (event.detail.ctx.response.status !== 401 || byReader(event)) return;
    event.preventDefault(); // which would lead to the sign-in, away from what is typed
    sessionEnded();
  });
  document.addEventListener("htmx:sse:error", (event) => { if (event.detail.status === 401) sessionEnded(); });
  document.addEventListener("htmx:sse:before:connection", (event) => { if (ended() && event.detail.connection.attempt > 0) event.preventDefault(); });
  document.addEventListener("htmx:sse:after:connection", () => ended()?.remove());

  // A page that takes longer than 200 ms shows it; a button that was pressed is not pressed twice.
  addEventListener("pageshow", () => { root.classList.remove("is-loading"); all(".is-busy").forEach((busy) => busy.classList.remove("is-busy")); });
  document.addEventListener("htmx:before:request", (event) => { if (byReader(event)) root.classList.add("is-loading"); });
  document.addEventListener("htmx:finally:request", (event) => { if (byReader(event)) root.classList.remove("is-loading"); });
  addEventListener("beforeunload", () => root.classList.add("is-loading"));
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    const button = event.submitter;
    if (button?.form?.classList.contains("is-busy")) return event.preventDefault();
    event.target.classList.add("is-busy");
  });

  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      event.preventDefault();
      await navigator.clipboard.writeText(copy.dataset.copy);
      copy.classList.add("copied");
      announce("Copied");
      setTimeout(() => copy.classList.remove("copied"), 1500);
    }
    if (event.target.closest("[data-open-help]")) openHelp();
    if (event.target.closest("[data-print]")) print();
    for (const menu of all("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });

  // A moment in a form is the reader's; it travels with its zone. What is left empty does not travel.
  const local = (at) => new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
  for (const field of all("input[data-moment]")) if (field.dataset.moment) field.value = local(new Date(field.dataset.moment));
  document.addEventListener("formdata", (event) => {
    for (const field of all("input[data-moment]", event.target)) if (field.value) event.formData.set(field.name, new Date(field.value).toISOString());
    if (event.target.method === "get") for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });

  // Rows that are ticked, all at once and counted.
  const ticks = (name) => [...all(`input[name="${name}"]`)].filter((tick) => tick.type === "checkbox");
  function countTicks() {
    for (const place of all("[data-ticked-count]")) place.textContent = `${ticks(place.dataset.tickedCount).filter((tick) => tick.checked).length} chosen`;
    for (const every of all("[data-tick-all]")) {
      const among = ticks(every.dataset.tickAll);
      const chosen = among.filter((tick) => tick.checked).length;
      every.checked = chosen > 0 && chosen === among.length;
      every.indeterminate = chosen > 0 && chosen < among.length;
    }
  }
  document.addEventListener("change", (event) => {
    const name = event.target.dataset?.tickAll;
    if (name) for (const tick of ticks(name)) tick.checked = event.target.checked;
    countTicks();
  });
  document.addEventListener("htmx:after:swap", countTicks);
  countTicks();

  // What is wrong in a folded tree is unfolded before it is shown.
  function reveal() {
    const target = location.hash.startsWith("#wrong-") && document.getElementById(location.hash.slice(1));
    if (!target) return;
    for (let place = target; place; place = place.parentElement?.closest("details")) if (place.matches("details")) place.open = true;
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "center" });
  }
  addEventListener("hashchange", reveal);
  reveal();

  // Theme: the same cookie that the server reads, so there is no flash on the next page.
  for (const form of all("form[data-theme-switch]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const theme = event.submitter.value;
      document.cookie = `theme=${theme}; path=/; samesite=lax; max-age=${theme ? 31536000 : 0}`;
      if (theme) root.setAttribute("data-bs-theme", theme); else root.removeAttribute("data-bs-theme");
      for (const button of all("form[data-theme-switch] button")) button.setAttribute("aria-pressed", String(button.value === theme));
    });
  }

  // On a phone a button leads to the decision until it is on the screen.
  if ("IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => root.classList.toggle("at-decision", entries.some((entry) => entry.isIntersecting)));
    const watch = () => { const panel = document.getElementById("decide"); if (panel) seen.observe(panel); };
    watch();
    document.addEventListener("htmx:after:swap", watch);
  }

  // Keyboard
  const rows = () => [...all("[data-row]")];
  let chosen = "";
  // A refresh of the list keeps the reader's place in it.
  document.addEventListener("htmx:after:swap", () => { if (chosen) document.getElementById(chosen)?.classList.add("row-selected"); });
  const selected = () => document.querySelector("[data-row].row-selected");
  function move(step) {
    const list = rows();
    if (!list.length) return;
    const next = list[Math.max(0, Math.min(list.length - 1, list.indexOf(selected()) + step))];
    selected()?.classList.remove("row-selected");
    next.classList.add("row-selected");
    chosen = next.id;
    const link = next.querySelector("a");
    link?.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  }
  function openHelp() { document.getElementById("help")?.showModal(); }
  function decide(verdict) {
    const field = document.querySelector(`[data-decide=${verdict}]`);
    if (field) { field.closest("details")?.setAttribute("open", ""); return field.focus(); }
    const link = selected()?.querySelector("a[href]");
    if (link) location.href = `${link.href}#${verdict}`;
  }
  let pending = "";
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const menu of all("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
      if (location.hash === "#menu") location.hash = "#content";
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog[open]")) return;
    const combination = pending + event.key;
    pending = event.key === "g" ? "g " : "";
    const keys = {
      "/": () => document.querySelector("[data-search]")?.focus(),
      "?": openHelp,
      "g i": () => document.querySelector("[data-key='g i']")?.click(),
      j: () => move(1),
      k: () => move(-1),
      a: () => decide("approve"),
      r: () => decide("reject"),
    };
    if (keys[combination]) { event.preventDefault(); keys[combination](); }
  });
  if (["#approve", "#reject"].includes(location.hash)) decide(location.hash.slice(1));
})();
