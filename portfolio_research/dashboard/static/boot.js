/* The page mounts the dashboard itself: the first numbers are on the screen before the notebook's kernel has started. */
import { mount } from "./dashboard.js";

mount(document.getElementById("portfolio-dashboard"), new URL("/", location.href).href);
