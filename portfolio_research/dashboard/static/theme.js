/* Before the first paint: the colours the viewer chose, if any. */
try {
  const theme = localStorage.getItem("portfolio-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* storage is off: follow the system */ }
