// Takes pictures of every view, light and dark, wide and narrow.
// Usage: node test/shots.mjs http://127.0.0.1:5199 [folder]
import { mkdirSync } from 'node:fs';
import { chromium } from 'playwright-core';

const base = (process.argv[2] ?? 'http://127.0.0.1:5199').replace(/\/$/, '');
const folder = process.argv[3] ?? 'shots';
mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
const views = { overview: '/', mesh: '/mesh', journeys: '/journeys', journey: '/journeys/order-7f3a-20931', live: '/live' };
for (const [scheme, size] of [['light', 'wide'], ['dark', 'wide'], ['light', 'narrow'], ['dark', 'narrow']]) {
  const context = await browser.newContext({ colorScheme: scheme, viewport: size === 'wide' ? { width: 1440, height: 900 } : { width: 390, height: 844 } });
  const page = await context.newPage();
  page.on('console', (m) => ['error', 'warning'].includes(m.type()) && console.log(m.type(), m.text()));
  page.on('pageerror', (e) => console.log('page error', e.message));
  for (const [name, path] of Object.entries(views)) {
    await page.goto(base + path);
    await page.waitForTimeout(name === 'overview' ? 5000 : 1500);
    await page.screenshot({ path: `${folder}/${name}-${scheme}-${size}.png` });
    if (name === 'journey') {
      await page.locator('[role=row]').nth(7).click();
      await page.screenshot({ path: `${folder}/span-${scheme}-${size}.png` });
    }
  }
  await context.close();
}
await browser.close();
