// What every page can do: times in the reader's zone, copying, dialogs, the theme, polite polling.
(() => {
  const every = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  // --- times -------------------------------------------------------------------------------------------
  const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
  const minute = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
  const steps = [[60, "second"], [3600, "minute"], [86400, "hour"], [604800, "day"]];

  const away = (at) => {
    const seconds = (at - Date.now()) / 1000;
    const size = Math.abs(seconds);
    if (size < 5) return relative.format(0, "second");
    let unit = 1;
    for (const [limit, name] of steps) {
      if (size < limit) return relative.format(Math.trunc(seconds / unit), name);
      unit = limit === 604800 ? unit : limit;
    }
    return day.format(at);
  };

  const tell = (element) => {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) return;
    const style = element.dataset.as;
    const text = style === "away" ? away(at) : style === "day" ? day.format(at) : minute.format(at);
    if (element.textContent !== text) element.textContent = text;
    if (!element.title) element.title = full.format(at);
  };
  const tellAll = (root = document) => every("time[datetime]", root).forEach(tell);

  const local = (utc, seconds) => {
    const at = new Date(utc);
    if (Number.isNaN(at.getTime())) return "";
    return new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, seconds ? 19 : 16);
  };
  const fillMoments = (root) => every("input[data-utc]", root).forEach((input) => {
    if (input.dataset.utc && !input.value) input.value = local(input.dataset.utc, input.step === "1");
  });

  setInterval(() => { if (!document.hidden) every('time[data-as="away"]').forEach(tell); }, 5000);

  // --- words for a screen reader, and for everybody who looks at the corner ----------------------------
  let silence;
  const say = (words) => {
    const toast = byId("toast");
    toast.textContent = words;
    clearTimeout(silence);
    silence = setTimeout(() => { toast.textContent = ""; }, 4000);
  };

  // --- copying -----------------------------------------------------------------------------------------
  const copy = async (button) => {
    const source = byId(button.dataset.copies);
    if (!source) return;
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
      say(button.dataset.said || "Copied.");
    } catch {
      getSelection().selectAllChildren(source);
      say("Press Ctrl or ⌘ and C to copy what is selected.");
    }
  };

  // --- dialogs: focus goes back to what opened them ----------------------------------------------------
  const openers = new WeakMap();
  const open = (id, opener) => {
    const dialog = byId(id);
    if (!dialog || dialog.open) return;
    openers.set(dialog, opener && opener.id);
    dialog.showModal();
  };
  const closed = (dialog) => {
    every("[data-once]", dialog).forEach((once) => once.remove());
    const opener = byId(openers.get(dialog) || "") || document.querySelector("h1");
    if (opener) opener.focus();
    if (dialog.querySelector("[data-finished]")) location.assign(dialog.dataset.home);
  };

  // what is shown this once goes only when somebody says so: Escape, Back and the cross ask first
  const ask = (dialog) => {
    const question = dialog.querySelector("[data-ask]");
    if (!question) return;
    question.hidden = false;
    question.querySelector("button").focus();
  };
  const asks = (dialog) => dialog && dialog.querySelector("[data-once]") && dialog.querySelector("[data-ask]");

  const switchTheme = () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
      || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    const theme = dark ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("keyledger-theme", theme); } catch { /* not remembered then */ }
    document.dispatchEvent(new CustomEvent("keyledger:theme"));
    say(theme === "dark" ? "Dark theme." : "Light theme.");
  };

  // --- parts that are shown with a choice --------------------------------------------------------------
  const showChosen = (root = document) => every("[data-shown-with]", root).forEach((part) => {
    const [name, value] = part.dataset.shownWith.split("=");
    const form = part.closest("form");
    const chosen = form && new FormData(form).get(name);
    part.hidden = chosen !== value;
  });

  const greet = (root) => { tellAll(root); fillMoments(root); showChosen(root); };

  document.addEventListener("click", (event) => {
    const at = event.target.closest("[data-copies],[data-opens],[data-closes],[data-asks],[data-stays],[data-theme-switch]");
    if (at) {
      if (at.dataset.copies) copy(at);
      else if (at.dataset.opens) open(at.dataset.opens, at);
      else if ("closes" in at.dataset) at.closest("dialog").close();
      else if ("asks" in at.dataset) ask(at.closest("dialog"));
      else if ("stays" in at.dataset) { at.closest("[data-ask]").hidden = true; byId("token").focus(); }
      else switchTheme();
    }
    every("details.switcher[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
  });
  document.addEventListener("keydown", (event) => {
    const kept = event.key === "Escape" && document.querySelector("dialog[open]");
    if (asks(kept)) { event.preventDefault(); ask(kept); }
    const menu = event.key === "Escape" && event.target.closest("details.switcher[open]");
    if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
    if (event.key === "/" && !event.target.closest("input,textarea,select,[contenteditable]")) {
      const search = byId("search");
      if (search) { event.preventDefault(); search.focus(); }
    }
  });
  document.addEventListener("cancel", (event) => {
    if (asks(event.target)) { event.preventDefault(); ask(event.target); }
  }, true);
  document.addEventListener("change", () => showChosen());
  document.addEventListener("close", (event) => { if (event.target.matches("dialog")) closed(event.target); }, true);

  // --- htmx --------------------------------------------------------------------------------------------
  const live = (element) => element.closest && element.closest("[data-live]") === element;
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (live(event.detail.elt) && document.hidden) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) every("[data-live]").forEach((part) => htmx.trigger(part, "seen"));
  });
  document.addEventListener("htmx:configRequest", (event) => {
    const { elt, parameters } = event.detail;
    if (elt.dataset.ids) {
      parameters.keys = every(elt.dataset.ids).slice(0, 200).map((row) => row.dataset.key).join(",");
    }
    const form = elt.closest("form");
    if (form) every('input[type="datetime-local"]', form).forEach((input) => {
      if (input.value) parameters[input.name] = new Date(input.value).toISOString();
    });
  });
  document.addEventListener("htmx:afterSettle", (event) => {
    const part = event.detail.elt;
    greet(part);
    if (event.detail.requestConfig && live(event.detail.requestConfig.elt)) return;
    const wanted = part.matches("[data-focus]") ? part : part.querySelector("[data-focus]");
    if (wanted) wanted.focus({ preventScroll: false });
  });
  document.addEventListener("htmx:oobAfterSwap", (event) => greet(event.detail.target.parentNode || document));
  document.addEventListener("htmx:beforeSend", (event) => {
    if (!live(event.detail.elt)) byId("working").classList.add("on");
  });
  document.addEventListener("htmx:afterRequest", () => byId("working").classList.remove("on"));
  document.addEventListener("htmx:sendError", (event) => {
    if (!live(event.detail.elt)) say("The server cannot be reached. Nothing was changed that you can see here.");
  });

  // --- time travel: the moment is typed in the reader's zone and asked for in UTC -----------------------
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-travel]");
    if (!form) return;
    event.preventDefault();
    const at = new Date(form.elements.as_of.value);
    if (!Number.isNaN(at.getTime())) location.assign(`${form.action}?as_of=${encodeURIComponent(at.toISOString())}`);
  });

  // --- a page that comes again keeps the focus where it was -------------------------------------------
  const place = "keyledger-focus";
  addEventListener("pagehide", () => {
    const id = document.activeElement && document.activeElement.id;
    try { sessionStorage.setItem(place, id ? `${location.pathname}#${id}` : ""); } catch { /* then it starts at the top */ }
  });
  const back = () => {
    let kept = "";
    try { kept = sessionStorage.getItem(place) || ""; sessionStorage.removeItem(place); } catch { return; }
    const [path, id] = kept.split("#");
    if (path === location.pathname && id && byId(id)) byId(id).focus();
  };

  greet(document);
  back();
  every("dialog[data-open-now]").forEach((dialog) => open(dialog.id, byId(dialog.dataset.openNow)));
})();
