// Before the first paint: the chosen theme, or the system's. A script of its own because the policy allows nothing inline.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("hub-theme");
    } catch {
      return null;
    }
  };
  const apply = () => {
    const choice = root.dataset.themeForced || stored() || root.dataset.themeChoice || "auto";
    root.dataset.bsTheme = choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
  };
  apply();
  dark.addEventListener("change", apply);
  globalThis.hubTheme = {
    toggle() {
      const next = root.dataset.bsTheme === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("hub-theme", next);
      } catch {
        root.dataset.themeChoice = next;
      }
      apply();
    },
    apply,
  };
})();
