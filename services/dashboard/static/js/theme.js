// Runs before the page is drawn, so that a remembered theme never flashes into place.
(() => {
  try {
    const theme = localStorage.getItem("keyledger-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch { /* a browser that keeps nothing follows the system */ }
})();
