// Opens the shop's order board in Chromium against a running demo and fails unless orders arrive, complete and link to
// their journeys, without an error of the page.
// Usage: node test/board.mjs http://127.0.0.1:8480/
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
const problems = [];
try {
  for (const [width, scheme] of [[1280, 'light'], [390, 'dark']]) {
    const page = await (await browser.newContext({ viewport: { width, height: 800 }, colorScheme: scheme })).newPage();
    page.on('console', (m) => m.type() === 'error' && problems.push(m.text()));
    page.on('pageerror', (e) => problems.push(e.message));
    await page.goto(process.argv[2]);
    await page.getByText('completed', { exact: true }).last().waitFor({ timeout: 15_000 });
    await page.waitForFunction(() => Number(document.querySelector('[data-count=completed]').textContent) > 0);
    const before = Number(await page.locator('[data-count=events]').textContent());
    await page.waitForFunction((n) => Number(document.querySelector('[data-count=events]').textContent) > n, before);
    assert.equal(await page.locator('#status').textContent(), 'live');
    assert.match(await page.getByRole('link', { name: 'journey' }).first().getAttribute('href'), /\/journeys\/[0-9a-f]{32}$/);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(wide, false, `the board is wider than ${width} px`);
  }
  assert.deepEqual(problems, []);
} finally {
  await browser.close();
}
