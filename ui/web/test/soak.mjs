// Watches the live tail under load and a journey of 10,000 spans for long tasks, against test/fixture.mjs.
// Usage: RATE=2000 node test/fixture.mjs 5198 &  node test/soak.mjs http://127.0.0.1:5198 [seconds]
import { chromium } from 'playwright-core';

const base = (process.argv[2] ?? 'http://127.0.0.1:5198').replace(/\/$/, '');
const seconds = Number(process.argv[3] ?? 20);
const limit = 100; // ms
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--enable-precise-memory-info'] });
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  await page.addInitScript(() => {
    window.long = [];
    new PerformanceObserver((list) => list.getEntries().forEach((e) => window.long.push(Math.round(e.duration)))).observe({ type: 'longtask', buffered: true });
  });
  const over = async (what) => {
    const long = (await page.evaluate(() => window.long)).filter((ms) => ms > limit);
    console.log(`${what}: ${long.length} tasks over ${limit} ms${long.length ? `: ${long.join(', ')}` : ''}`);
    return long.length;
  };
  let failed = 0;
  await page.goto(`${base}/live`);
  await page.waitForTimeout(2000);
  await page.evaluate(() => (window.long.length = 0));
  const heap = () => page.evaluate(() => Math.round(performance.memory.usedJSHeapSize / 2 ** 20));
  const before = await heap();
  await page.waitForTimeout(seconds * 1000);
  failed += await over(`live tail, ${seconds} s`);
  console.log(await page.locator('.state').innerText(), `heap ${before} -> ${await heap()} MiB`);

  await page.goto(`${base}/journeys/wide`);
  await page.getByRole('treegrid').waitFor();
  await page.evaluate(() => (window.long.length = 0));
  for (let i = 0; i < 40; i++) {
    await page.mouse.wheel(0, 4000);
    await page.waitForTimeout(50);
  }
  console.log('rows in the page', await page.locator('[role=row]').count(), 'of', await page.getByRole('treegrid').getAttribute('aria-rowcount'));
  failed += await over('scrolling 10,001 spans');
  process.exitCode = failed > 0 ? 1 : 0;
} finally {
  await browser.close();
}
