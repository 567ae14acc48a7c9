// What stands above every page: the address to copy, Python that shows the same, and the tour, until this browser has put it away.

export default function (component) {
  const root = component.parentElement.querySelector(".page-tools");
  const { page, tour, has_snippet } = component.data;
  const key = `interp.tour.${page}`;
  const bar = node("div", "bar");
  const button = (long, short, hint, action) => {
    const made = node("button");
    made.type = "button";
    made.title = hint;
    made.setAttribute("aria-label", long);
    made.append(node("span", "long", long), node("span", "short", short));
    made.onclick = () => action(made);
    return made;
  };
  const tell = (made, text) => {
    const before = [...made.childNodes];
    made.replaceChildren(text);
    setTimeout(() => made.replaceChildren(...before), 1200);
  };
  bar.append(button("Copy link", "Link", "The address of what you see, for a colleague on this machine or for later", async (made) => {
    await navigator.clipboard.writeText(location.href);
    tell(made, "Copied");
  }));
  if (has_snippet) {
    bar.append(button("Copy Python", "Python", "For a notebook: shows the same as this page", async (made) => {
      const query = new URLSearchParams(location.search);
      const found = await fetch(`/api/snippet/${page}?${query}`).then((answer) => answer.json()).catch(() => ({ error: "no answer" }));
      if (found.error) made.title = found.error;
      else await navigator.clipboard.writeText(found.text);
      tell(made, found.error ? "Not copied" : "Copied");
    }));
  }
  if (tour) bar.append(button("About this page", "About", "What this page is for, and how to read it", () => { put(isShown()); }));
  root.replaceChildren(bar);
  put(isAway());

  function isShown() {
    return Boolean(root.querySelector(".tour"));
  }

  function isAway() {
    try {
      return localStorage.getItem(key) !== null;
    } catch {
      return false; // a browser that keeps nothing shows it every time
    }
  }

  // Puts the tour away, or shows it.
  function put(away) {
    root.querySelector(".tour")?.remove();
    if (!tour) return;
    try {
      if (away) localStorage.setItem(key, "away");
    } catch { /* as above */ }
    if (away) return;
    const box = node("section", "tour");
    box.setAttribute("aria-label", "About this page");
    const text = node("div");
    text.append(...tour.map((sentence) => node("p", "", sentence)));
    const done = node("button", "done", "Got it");
    done.type = "button";
    done.onclick = () => put(true);
    box.append(text, done);
    root.append(box);
  }
}
