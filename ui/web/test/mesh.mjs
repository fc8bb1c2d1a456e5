// Watches the mesh page of a node with one link: it must show the link cut, and then up without being loaded again.
// Says "cut" on its output once it has seen that; whoever runs it brings the other site up then.
// Usage: node test/mesh.mjs http://127.0.0.1:8281 SITE
// CHROMIUM names the browser (default /usr/bin/chromium).
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [base, site] = process.argv.slice(2);
if (!site) throw new Error('usage: node test/mesh.mjs URL SITE');
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(30_000);
  await page.goto(`${base}/mesh`);
  await page.evaluate(() => (window.loadedOnce = true));
  const row = (state) => page.getByRole('table', { name: 'Links' }).getByRole('row', { name: new RegExp(`^${site} .*${state}`) });
  const drawing = page.getByRole('img', { name: /This site/ });
  await row('cut').waitFor();
  await drawing.getByText('✗ cut').waitFor();
  await drawing.locator('line.cut').waitFor({ state: 'attached' });
  await page.getByText(`The link to site ${site} has been down`).waitFor();
  console.log('cut');
  await row('up').waitFor();
  await drawing.locator('line.up').waitFor({ state: 'attached' });
  assert.equal(await drawing.locator('line.cut').count(), 0, 'the line is whole again');
  await page.getByText(`The link to site ${site} has been down`).waitFor({ state: 'detached' });
  assert.equal(await page.evaluate(() => window.loadedOnce), true, 'the page was not loaded again');
  console.log('ok');
} finally {
  await browser.close();
}
