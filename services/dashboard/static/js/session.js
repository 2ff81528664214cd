// The session goes on while a page is looked at: one tab at a time renews it, a minute before it would end.
// A refresh token is good once, so two tabs that used the same one would end the session.
// What htmx asked for while it had run out, as after a laptop's sleep, is asked for again: no typed word is lost.
(() => {
  const body = document.body;
  const waiting = document.querySelector("[data-renew]");
  const AHEAD = 60_000;
  const PLACE = "keyledger-session-until";
  const LOCK = "keyledger-session";
  const RETRIES = 5;
  const AGAIN = "X-Keyledger-Again";
  let until = 0;
  let timer;

  const kept = () => { try { return Number(localStorage.getItem(PLACE)) || 0; } catch { return 0; } };
  const keep = (seconds) => {
    until = Date.now() + seconds * 1000;
    try { localStorage.setItem(PLACE, String(until)); } catch { /* then each tab knows its own alone */ }
  };
  const alone = (work) => navigator.locks ? navigator.locks.request(LOCK, work) : work();

  // "renewed", "over" or "away"
  const ask = async () => {
    try {
      const answer = await fetch("/session/refresh", {
        method: "POST",
        headers: { "X-Keyledger-Request": "1" },
        signal: AbortSignal.timeout(10_000),
      });
      if (answer.status === 401) return "over";
      if (!answer.ok) return "away";
      keep((await answer.json()).seconds_left);
      return "renewed";
    } catch {
      return "away";
    }
  };

  const latest = () => Math.max(until, kept());
  const renew = () => {
    const before = latest();
    // somebody else may be here first while this one waits
    return alone(async () => (latest() > before ? "renewed" : ask()));
  };

  const plan = (milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(tick, Math.max(1000, milliseconds));
  };
  const left = () => latest() - Date.now() - AHEAD;

  // a page that nobody looks at lets its session end
  async function tick() {
    if (document.hidden) return;
    if (left() > 0) { plan(left()); return; }
    const outcome = await renew();
    if (outcome === "over") location.reload();
    else plan(outcome === "renewed" ? left() : 5000 + Math.random() * 5000);
  }

  async function goOn() {
    const elsewhere = waiting.dataset.renew;
    for (let attempt = 0; attempt < RETRIES; attempt += 1) {
      const outcome = await renew();
      if (outcome === "renewed") { location.reload(); return; }
      if (outcome === "over") { location.replace(elsewhere); return; }
      await new Promise((resolve) => { setTimeout(resolve, (attempt + Math.random()) * 1000); });
    }
    location.replace(elsewhere);
  }

  async function again({ elt, verb, path, target, triggeringEvent: event }) {
    const outcome = await renew();
    if (outcome === "over") location.reload();
    else if (outcome === "away") htmx.trigger(elt, "htmx:sendError", { elt });
    else htmx.ajax(verb, path, { source: elt, event, target, headers: { [AGAIN]: "1" } });
  }

  if (waiting) { goOn(); return; }
  if (!body.dataset.secondsLeft) return;
  keep(Number(body.dataset.secondsLeft));
  plan(left());
  document.addEventListener("visibilitychange", tick);
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    const { xhr, requestConfig } = event.detail;
    // the guard says by the second that a refresh token is there; after one more answer like this the page begins anew
    if (xhr.status !== 401 || !xhr.getResponseHeader("HX-Refresh") || requestConfig.headers[AGAIN]) return;
    event.preventDefault();
    again(requestConfig);
  });
})();
