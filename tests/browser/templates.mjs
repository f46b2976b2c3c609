// Opens templates as a person does: Templates in the side bar, the pack under Extensions, a click on a card.
// Usage: node templates.mjs URL CHROMIUM OUT; reads {pack: [template, ...]} as JSON from standard input and writes
// OUT/templates.json: {pack: {listed, opened: {template: what the page holds afterwards}}, problems}.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(process.env.PLAYWRIGHT_HOME ? `${process.env.PLAYWRIGHT_HOME}/` : import.meta.url);
const { chromium } = require("playwright-core");
const [url, executablePath, out] = process.argv.slice(2);
const packs = JSON.parse(readFileSync(0, "utf8"));

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage({ viewport: { width: 1900, height: 1000 } });
page.setDefaultTimeout(60000);
const problems = [];
page.on("pageerror", (error) => problems.push(String(error)));
await page.goto(url, { timeout: 120000 });
await page.waitForFunction(() => window.app?.graph && window.app?.canvas, null, { timeout: 120000 });
await page.waitForTimeout(3000);

const cards = page.locator("[role=dialog] [data-testid^=template-workflow-]");
const results = {};
for (const [pack, templates] of Object.entries(packs)) {
  results[pack] = { listed: [], opened: {} };
  for (const template of templates) {
    await opened(pack, template);
    await page.waitForTimeout(1200);
    await page.screenshot({ path: `${out}/template-${template}.png` });
    const details = page.getByText("View details"); // of missing models, for instance
    if (await details.isVisible()) await details.click();
    await page.waitForTimeout(500);
    results[pack].opened[template] = await page.evaluate(() => ({
      nodes: window.app.graph.nodes.map((node) => node.type),
      unknown: window.app.graph.nodes.map((node) => node.type)
        .filter((type) => !(type in window.LiteGraph.registered_node_types)),
      dialogs: [...document.querySelectorAll("[role=dialog]")]
        .filter((element) => element.getClientRects().length).map((element) => element.innerText),
      text: document.body.innerText,
    }));
  }
}
// Click a template's card until its graph is there: a busy machine may draw the dialog anew under the pointer.
async function opened(pack, template) {
  for (let attempt = 0; ; attempt++) {
    await page.keyboard.press("Escape"); // the template dialog of a first visit, or what the last one left open
    await page.getByRole("button", { name: "Templates", exact: true }).click();
    await page.locator("[role=dialog]").getByText(pack, { exact: true }).click();
    const card = page.getByTestId(`template-workflow-${template}`);
    await card.waitFor();
    results[pack].listed = await cards.evaluateAll((found) => found.map(
      (element) => element.dataset.testid.replace("template-workflow-", "")));
    await page.evaluate(() => window.app.graph.clear());
    await card.click();
    try {
      await page.waitForFunction(() => window.app.graph.nodes.length > 0, null, { timeout: 20000 });
      return;
    } catch (error) {
      if (attempt === 3) throw error;
    }
  }
}

writeFileSync(`${out}/templates.json`, JSON.stringify({ results, problems }, null, 1));
await browser.close();
