// FILE SHOT: what a person does with the trace page of the test's batch.
import { pathToFileURL } from "node:url";
import { open } from "./browser.mjs";

const [file, shot] = process.argv.slice(2);

await open(pathToFileURL(file).href, async page => {
  const rows = () => page.locator(".row");
  const count = () => page.locator("#count").textContent();
  const all = await count();
  const drawn = await rows().count();

  // From the top to the end, as fast as frames come.
  const frames = await page.evaluate(async () => {
    const list = document.getElementById("list");
    let slowest = 0, before = performance.now();
    for (let step = 0; step <= 60; step++) {
      list.scrollTop = (list.scrollHeight - list.clientHeight) * step / 60;
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      slowest = Math.max(slowest, now - before);
      before = now;
    }
    return { slowest, last: document.querySelector(".row:last-child .asked").textContent };
  });

  await page.selectOption("#order", "worst");
  const worst = await rows().first().locator(".outcome").textContent();
  await page.selectOption("#order", "task");
  await page.fill("#words", "question 77?");
  const found = await count();
  await rows().first().click();
  await page.waitForSelector("main details");
  const conversation = await page.locator("main details summary span:first-child").allTextContents();
  await page.locator(".citations button").first().click();
  const marked = await page.locator("mark").textContent();
  await page.screenshot({ path: shot });
  const markup = await page.locator("main img, main script, header img").count();
  await page.fill("#words", "");
  await page.locator("#outcomes button", { hasText: "tool" }).click();
  const failed = await count();
  return { all, drawn, frames, worst, found, conversation, marked, markup, failed };
});
