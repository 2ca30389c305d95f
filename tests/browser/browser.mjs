// A page in a headless browser, and everything that went wrong in it.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(import.meta.url);
const { chromium } = require(process.env.PLAYWRIGHT);

/** Opens a URL, runs `use(page)`, closes the browser; its result, with the page's own errors. */
export async function open(url, use, options = {}) {
  const own = process.env.AGENT_PIPELINES_BROWSER;
  const packed = own ? null
    : (await import(pathToFileURL(`${process.env.CHROMIUM}/build/index.js`))).default;
  const browser = await chromium.launch({
    executablePath: own ?? await packed.executablePath(),
    args: own ? ["--no-sandbox"] : packed.args,
    headless: true,
  });
  try {
    const page = await browser.newPage({ viewport: { width: 1400, height: 900 }, ...options });
    const errors = [];
    page.on("pageerror", error => errors.push(String(error)));
    page.on("console", said => said.type() === "error" && errors.push(said.text()));
    await page.goto(url);
    const result = await use(page);
    process.stdout.write(JSON.stringify({ ...result, errors }));
  } finally {
    await browser.close();
  }
}
