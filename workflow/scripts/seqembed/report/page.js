"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const views = {};
  const tooltip = document.getElementById("tooltip");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let points = null;
  let printing = false;

  // The colours of a figure are CSS variables. An SVG within the page follows them by itself; a
  // canvas, and a saved SVG, need their values.
  const LIGHT = figures.light;
  // Under these keys there are data and texts of strangers.
  const DATA = new Set(["data", "datasets", "domain", "title", "name"]);
  function fill(part, colours) {
    if (typeof part === "string") return colours[/^var\(--(\w+)\)$/.exec(part)?.[1]] ?? part;
    if (Array.isArray(part)) return part.map((found) => fill(found, colours));
    if (part === null || typeof part !== "object") return part;
    return Object.fromEntries(
      Object.entries(part).map(([key, found]) => [key, DATA.has(key) ? found : fill(found, colours)]),
    );
  }
  const coloursNow = () => {
    if (printing) return LIGHT;
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(Object.keys(LIGHT).map((name) => [name, style.getPropertyValue("--" + name).trim()]));
  };

  // Texts of strangers are shown as text, never as HTML.
  function showTooltip(_, event, item, value) {
    if (value === null || value === undefined || value === "") {
      tooltip.hidden = true;
      return;
    }
    tooltip.replaceChildren();
    for (const [label, text] of describe(value)) {
      const line = document.createElement(label ? "div" : "b");
      line.textContent = label ? `${label}: ${text}` : text;
      tooltip.append(line);
    }
    tooltip.hidden = false;
    const box = tooltip.getBoundingClientRect();
    const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - 14 - box.width : event.clientX + 14;
    const top = event.clientY + 14 + box.height > innerHeight ? event.clientY - 14 - box.height : event.clientY + 14;
    tooltip.style.left = `${Math.max(4, left)}px`;
    tooltip.style.top = `${Math.max(4, top)}px`;
  }

  function describe(value) {
    if (typeof value !== "object" || value.i === undefined) {
      return typeof value === "object" ? Object.entries(value).filter(([, text]) => text !== "") : [["", String(value)]];
    }
    const i = Number(String(value.i).replace(/\D/g, ""));
    const lines = [["", points.ids[i]]];
    if (points.descriptions[i]) lines.push(["description", points.descriptions[i]]);
    for (const [name, values] of Object.entries(points.details)) {
      const shown = values[i];
      if (shown !== null) lines.push([name, typeof shown === "number" ? shown.toLocaleString("en") : shown]);
    }
    return lines;
  }

  async function embed(name, specification, renderer) {
    const element = document.querySelector(`[data-figure="${name}"]`);
    if (!element) return;
    const options = { actions: false, renderer, tooltip: showTooltip };
    // On a narrow screen, the entries of a legend share two columns.
    const columns = element.clientWidth < 600 ? 2 : 0;
    specification.config = { ...specification.config, legend: { ...specification.config.legend, columns } };
    if (views[name]) views[name].finalize();
    views[name] = await vegaEmbed(element, specification, options);
  }

  function mapSpecification() {
    const layout = Number(document.getElementById("layout").value);
    const colour = Number(document.getElementById("colour").value);
    const found = figures.maps.find((map) => map.layout === layout && map.colouring === colour);
    const values = points.ids.map((_, i) => ({
      i,
      [`x${layout}`]: points.layouts[layout][0][i],
      [`y${layout}`]: points.layouts[layout][1][i],
      [`c${colour}`]: points.colours.length ? figures.colourings[colour].classes[points.colours[colour][i]] : null,
    }));
    if (points.colours.length) {
      const { below } = figures.colourings[colour];
      const isBelow = ({ i }) => below.includes(points.colours[colour][i]);
      values.sort((a, b) => isBelow(b) - isBelow(a));
    }
    const wanted = document.getElementById("search").value.trim().toLowerCase();
    const hits = wanted ? values.filter(({ i }) => points.ids[i].toLowerCase().includes(wanted)) : [];
    const output = document.getElementById("found");
    const shown = hits.slice(0, 10).map(({ i }) => points.ids[i]);
    document.getElementById("hits").textContent = shown.join(", ") + (hits.length > shown.length ? ", …" : "");
    output.textContent = wanted ? `${hits.length.toLocaleString("en")} of ${values.length.toLocaleString("en")} points` : "";
    return { ...found.figure, datasets: { points: values, found: hits } };
  }

  // One drawing follows the other, so that the last one asked for stays.
  let drawing = Promise.resolve();
  const drawMap = () => {
    const draw = () => embed("map", fill(mapSpecification(), coloursNow()), "canvas");
    return (drawing = drawing.then(draw).catch(console.error));
  };

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  function offer(select, names) {
    for (const [value, name] of names) select.append(new Option(name, value));
    select.addEventListener("change", drawMap);
  }

  async function openMap() {
    const text = document.getElementById("points").textContent.trim();
    if (!text || !document.querySelector('[data-figure="map"]')) return;
    points = await unpack(text);
    offer(document.getElementById("layout"), figures.layouts.map((name, number) => [number, name]));
    offer(document.getElementById("colour"), figures.colourings.map(({ name, number }) => [number, name]));
    let waiting = 0;
    document.getElementById("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(drawMap, 150);
    });
    document.getElementById("controls").hidden = false;
    await drawMap();
  }

  async function save(name) {
    const specification = name === "map" ? mapSpecification() : figures.charts[name];
    const width = document.querySelector(`[data-figure="${name}"]`).clientWidth || 800;
    const sized = { ...fill(specification, LIGHT), width: width - 60 };
    const { view } = await vegaEmbed(document.createElement("div"), sized, { actions: false, renderer: "svg" });
    const svg = await view.toSVG();
    view.finalize();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
    link.download = `${figures.name}_${name}.svg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function copy(button) {
    const range = document.createRange();
    range.selectNodeContents(document.getElementById(button.dataset.copy));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
    button.textContent = "Copied";
  }

  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => save(button.dataset.save));
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(button));
  }
  const redraw = () => points && drawMap();
  dark.addEventListener("change", redraw);
  addEventListener("beforeprint", () => { printing = true; redraw(); });
  addEventListener("afterprint", () => { printing = false; redraw(); });

  const drawn = Object.entries(figures.charts).map(([name, chart]) => embed(name, chart, "svg"));
  Promise.all([...drawn, openMap()]).then(() => document.documentElement.setAttribute("data-drawn", "yes"));
})();
