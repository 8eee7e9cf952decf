"use strict";
// While something is under way the page's content is fetched anew; the answer is escaped text and
// its scripts do not run.
setInterval(async () => {
  const main = document.getElementById("main");
  if (document.hidden || main.contains(document.activeElement)) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    if (fresh) main.replaceChildren(...fresh.childNodes);
  } catch {
    // The server is away; what is shown stays.
  }
}, 3000);
