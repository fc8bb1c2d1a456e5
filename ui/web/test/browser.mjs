// Drives the console in Chromium against a running node (or test/fixture.mjs), and fails if a view does.
// Usage: node test/browser.mjs http://127.0.0.1:8281 [journey id]
// CHROMIUM names the browser (default /usr/bin/chromium).
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const base = process.argv[2];
if (!base) throw new Error('usage: node test/browser.mjs URL [journey id]');
const origin = new URL(base).origin;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
const problems = [];

async function open(size, scheme) {
  const context = await browser.newContext({ viewport: size, colorScheme: scheme });
  const page = await context.newPage();
  // A missing role answers 404, which the browser logs and the page shows in words.
  page.on('console', (m) => m.type() === 'error' && !/404|ERR_CONNECTION/.test(m.text()) && problems.push(m.text()));
  page.on('pageerror', (e) => problems.push(e.message));
  page.on('request', (r) => {
    const u = new URL(r.url());
    if (u.host !== new URL(origin).host) problems.push(`request to another origin: ${u}`);
  });
  page.setDefaultTimeout(15_000);
  return page;
}

// contrast finds text below WCAG AA against its background.
const contrast = () => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const f = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const low = [];
  for (const el of document.querySelectorAll('body *')) {
    const own = [...el.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !el.checkVisibility() || el.closest('[aria-hidden=true], :disabled, svg')) continue;
    const style = getComputedStyle(el);
    let at = el;
    let ground = [0, 0, 0, 0];
    while (at && ground[3] === 0) {
      ground = rgba(getComputedStyle(at).backgroundColor);
      at = at.parentElement;
    }
    if (ground[3] === 0) ground = [255, 255, 255, 255];
    const [a, b] = [light(rgba(style.color)), light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${el.textContent.trim().slice(0, 40)}`);
  }
  return low;
};

async function check(page, view) {
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, `${view} is wider than the screen`);
  assert.deepEqual(await page.evaluate(contrast), [], `${view}: contrast below 4.5`);
  assert.equal(await page.locator('h1').count(), 1, `${view} has one heading`);
  const unnamed = await page.evaluate(() => [...document.querySelectorAll('button, a, input')].filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).map((e) => e.outerHTML));
  assert.deepEqual(unnamed, [], `${view}: controls without a name`);
}

// meshPage holds the drawing and the tables against what the node itself says of its nodes and links.
async function meshPage(page) {
  await page.getByRole('heading', { level: 1, name: /^Mesh, seen from / }).waitFor();
  const mesh = await (await fetch(`${origin}/api/mesh`)).json();
  const drawing = page.getByRole('img', { name: /This site/ });
  for (const n of mesh.nodes) {
    await page.getByRole('table', { name: 'Nodes' }).getByRole('row', { name: new RegExp(`^${n.node} .*${n.up ? 'up' : 'down'}`) }).waitFor();
    assert.match(await drawing.textContent(), new RegExp(n.node), 'the node is drawn');
  }
  for (const l of mesh.links) {
    const state = l.up ? (l.problem ? 'stalled' : 'up') : 'cut';
    await page.getByRole('table', { name: 'Links' }).getByRole('row', { name: new RegExp(`^${l.site} .*${state}`) }).waitFor();
    await drawing.locator(`line.${state}`).first().waitFor({ state: 'attached' });
  }
  const rates = page.getByRole('table', { name: 'Links' }).getByRole('cell', { name: /\d\/s$/ });
  if (mesh.links.length > 0) await rates.first().waitFor(); // after the second answer
  await page.getByRole('table', { name: 'Streams' }).getByRole('row', { name: /^EVENTS / }).waitFor();
}

try {
  for (const [size, scheme] of [[{ width: 1440, height: 900 }, 'light'], [{ width: 390, height: 844 }, 'dark'], [{ width: 1440, height: 900 }, 'dark'], [{ width: 390, height: 844 }, 'light']]) {
    const page = await open(size, scheme);

    await page.goto(origin);
    await page.getByRole('heading', { level: 1, name: /^Site / }).waitFor();
    await check(page, 'overview');

    await page.getByRole('navigation').getByRole('link', { name: 'Mesh' }).click();
    await page.waitForURL('**/mesh');
    await meshPage(page);
    await check(page, 'mesh');

    await page.getByRole('navigation').getByRole('link', { name: 'Journeys' }).click();
    await page.waitForURL('**/journeys');
    const rows = page.getByRole('table', { name: /Recent journeys/ }).getByRole('link');
    await rows.first().waitFor();
    await check(page, 'journeys');
    await page.keyboard.press('/');
    await page.keyboard.type('no such journey at all');
    await page.getByText('No recent journey matches').waitFor();
    assert.match(page.url(), /\?q=no\+such/, 'the search is in the address');
    await page.goBack().catch(() => {});

    const id = process.argv[3];
    if (id) await page.goto(`${origin}/journeys/${encodeURIComponent(id)}`);
    else {
      await page.goto(`${origin}/journeys`);
      await rows.first().click();
    }
    const grid = page.getByRole('treegrid');
    await grid.waitFor();
    await check(page, 'journey');
    const spans = Number(await grid.getAttribute('aria-rowcount'));
    assert.ok(spans > 0, 'the journey has spans');
    await grid.focus();
    await page.keyboard.press('Home');
    await page.getByRole('heading', { name: 'Attributes' }).waitFor();
    assert.match(page.url(), /span=/, 'the chosen span is in the address');
    await check(page, 'journey with a span');
    if (spans > 1) {
      await page.keyboard.press('ArrowLeft'); // close
      await page.waitForFunction((n) => Number(document.querySelector('[role=treegrid]').getAttribute('aria-rowcount')) < n, spans);
      await page.keyboard.press('ArrowRight'); // open again
      await page.waitForFunction((n) => Number(document.querySelector('[role=treegrid]').getAttribute('aria-rowcount')) === n, spans);
    }
    const chosen = page.url();
    await page.reload();
    await page.getByRole('heading', { name: 'Attributes' }).waitFor();
    assert.equal(page.url(), chosen, 'the address brings the same view back');

    await page.goto(`${origin}/journeys/there-is-no-missing-journey`);
    await page.getByText('No such journey').waitFor();
    await check(page, 'missing journey');

    await page.goto(`${origin}/live`);
    await page.getByText('Live', { exact: false }).first().waitFor();
    await page.getByRole('table', { name: /Events/ }).getByRole('link').first().waitFor();
    await page.getByRole('button', { name: 'Pause' }).click();
    await check(page, 'live');
    await page.getByRole('table', { name: /Events/ }).getByRole('button').first().click();
    await page.locator('pre').waitFor();

    await page.goto(`${origin}/nowhere`);
    await page.getByText('There is no such page').waitFor();
    await page.context().close();
    console.log(`ok ${scheme} ${size.width}`);
  }
  assert.deepEqual(problems, [], 'the browser reports no errors');
  console.log('ok');
} finally {
  await browser.close();
}
