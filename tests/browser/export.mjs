// Opens workflows in ComfyUI's real front end: exports them in API format, takes screenshots, runs some.
// Usage: node export.mjs URL CHROMIUM OUT [--run NAME,NAME]; reads {name: workflow} as JSON from standard input. A workflow's
// extra.typed is what a person types into its subgraph node's widgets, in their order; null leaves one as it is.
import { readFileSync, writeFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(process.env.PLAYWRIGHT_HOME ? `${process.env.PLAYWRIGHT_HOME}/` : import.meta.url);
const { chromium } = require("playwright-core");
const [url, executablePath, out, , runNames] = process.argv.slice(2);
const workflows = JSON.parse(readFileSync(0, "utf8"));
mkdirSync(out, { recursive: true });

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage({ viewport: { width: 1900, height: 1000 } });
const problems = [];
page.on("pageerror", (error) => problems.push(String(error)));
await page.goto(url, { timeout: 120000 });
await page.waitForFunction(() => window.app?.graph && window.app?.canvas, null, { timeout: 120000 });
await page.waitForTimeout(3000);
await page.keyboard.press("Escape"); // the template dialog of a first visit
await page.waitForTimeout(500);

const results = {};
for (const [name, workflow] of Object.entries(workflows)) {
  await page.evaluate(async (graph) => { await window.app.loadGraphData(graph); }, workflow);
  await page.waitForTimeout(1200);
  const state = await page.evaluate(async (typed) => {
    const shown = window.app.graph.nodes.find((node) => node.isSubgraphNode?.());
    const widgets = (shown?.widgets ?? []).map((widget) => widget.label ?? widget.name);
    typed.forEach((value, i) => {
      if (value === null) return;
      shown.widgets[i].value = value;
      shown.widgets[i].callback?.(value);
    });
    const prompt = await window.app.graphToPrompt();
    const dialogs = [...document.querySelectorAll("[role=dialog]")]
      .filter((element) => element.offsetParent !== null || element.getClientRects().length)
      .map((element) => element.innerText);
    const missing = window.app.graph.nodes.filter((node) => node.has_errors && !node.constructor.nodeData
      && !["Note", "MarkdownNote", "Reroute"].includes(node.type)).map((node) => node.type);
    return { output: prompt.output, workflow: prompt.workflow, dialogs, missing, widgets };
  }, workflow.extra?.typed ?? []);
  results[name] = state;
  await page.keyboard.press("Escape");
  await page.waitForTimeout(300);
  // The picture shows the graph alone, not which model files this machine lacks.
  await page.addStyleTag({ content: "[data-testid=error-overlay], .minimap-main-container { display: none !important }" });
  await page.evaluate(whole);
  await page.waitForTimeout(900);
  await page.screenshot({ path: `${out}/${name}.png` });
  // As large as a person reads it, from the graph's upper left corner.
  await page.evaluate(() => {
    const { graph, canvas } = window.app;
    const boxes = [...graph.nodes, ...graph.groups].map((item) => [...(item.boundingRect ?? item._bounding)]);
    canvas.ds.scale = 1;
    canvas.ds.offset[0] = -Math.min(...boxes.map((box) => box[0])) + 80;
    canvas.ds.offset[1] = -Math.min(...boxes.map((box) => box[1])) + 90;
    canvas.setDirty(true, true);
  });
  await page.waitForTimeout(700);
  await page.screenshot({ path: `${out}/${name}-100.png` });
  results[name].geometry = await page.evaluate(measured);
}

// The whole graph in view, without the frames of errors.
function whole() {
  const { graph, canvas } = window.app;
  for (const node of graph.nodes) {
    node.has_errors = false;
    node.strokeStyles = {};
  }
  const boxes = [...graph.nodes, ...graph.groups].map((item) => [...(item.boundingRect ?? item._bounding)]);
  for (const point of graph.reroutes.values()) boxes.push([...point.pos, 0, 0]);
  const left = Math.min(...boxes.map((box) => box[0])), top = Math.min(...boxes.map((box) => box[1]));
  const right = Math.max(...boxes.map((box) => box[0] + box[2])), bottom = Math.max(...boxes.map((box) => box[1] + box[3]));
  const scale = Math.min(1780 / (right - left), 860 / (bottom - top));
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = -left + 80 / scale;
  canvas.ds.offset[1] = -top + 90 / scale;
  canvas.setDirty(true, true);
}

// Where everything really lies on the canvas, and how far each link runs under nodes that are not its own.
function measured() {
  const { graph, canvas } = window.app;
  const box = (item) => [...(item.boundingRect ?? item._bounding)].map(Math.round);
  const nodes = graph.nodes.map((node) => ({ id: node.id, type: node.type, box: box(node) }));
  const groups = graph.groups.map((group) => ({ title: group.title, box: box(group) }));
  const context = document.createElement("canvas").getContext("2d");
  const FINE = 4, COARSE = 16;
  const under = [];
  // The points of a body, `step` apart, that a path passes within half of `width`.
  const touched = (path, [left, top, width, height], step, stroke) => {
    const found = [];
    context.lineWidth = stroke;
    for (let x = left + 2; x < left + width; x += step) for (let y = top + 2; y < top + height; y += step)
      if (context.isPointInStroke(path, x, y)) found.push([x, y]);
    return found;
  };
  for (const link of graph.links.values()) {
    const segments = [link, ...(link.parentId === undefined ? [] : reroutes(link))];
    for (const node of graph.nodes) {
      if (node.id === link.origin_id || node.id === link.target_id) continue;
      // Along both axes: how many steps of the body have the link somewhere in them.
      const columns = new Set(), rows = new Set();
      for (const { path } of segments) {
        if (!path || !touched(path, node.boundingRect, COARSE, 2 * COARSE).length) continue;
        for (const [x, y] of touched(path, node.boundingRect, FINE, 3)) { columns.add(x); rows.add(y); }
      }
      const length = Math.round(FINE * Math.hypot(columns.size, rows.size));
      if (length) under.push({ link: link.id, node: node.id, from: link.origin_id, to: link.target_id, length });
    }
  }
  function reroutes(link) {
    const found = [];
    for (let at = graph.reroutes.get(link.parentId); at; at = graph.reroutes.get(at.parentId)) found.push(at);
    return found;
  }
  return { nodes, groups, under, area: [canvas.canvas.width, canvas.canvas.height] };
}

const SHOWS = ["SaveImage", "PreviewImage"];
for (const name of runNames ? runNames.split(",") : []) {
  // What another graph's nodes of the same numbers have shown stays, where it is not forgotten.
  await page.evaluate(async (graph) => {
    window.app.nodeOutputs = {};
    await window.app.loadGraphData(graph);
  }, workflows[name]);
  await page.waitForTimeout(1000);
  await page.evaluate(async () => { await window.app.queuePrompt(0, 1); });
  await page.waitForFunction(
    (kinds) => window.app.graph.nodes.filter((node) => kinds.includes(node.type))
      .every((node) => window.app.nodeOutputs?.[node.id]?.images?.length),
    SHOWS, { timeout: 600000 });
  await page.evaluate(whole);
  await page.waitForTimeout(2500); // a node loads its pictures when it is drawn
  await page.screenshot({ path: `${out}/${name}-result.png` });
}
writeFileSync(`${out}/results.json`, JSON.stringify({ results, problems }, null, 1));
await browser.close();
