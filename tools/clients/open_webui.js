// Uses Open WebUI (open_webui.sh) in headless Chromium as a person does, and checks that every part of it is answered:
// a chat of two turns, a picture, dictation, reading aloud, and a call. Pictures of the page go to the folder.
//
//   NODE_PATH=FOLDER/browser/node_modules node tools/clients/open_webui.js FOLDER RECORDING.wav [PART ...]
//
// The recording is what the microphone hears, again and again: 48 kHz, with two seconds of silence at its end. Reading aloud and a
// call's voice need a server with --voice. What is checked is that there are answers, and not their sense.
'use strict';
const fs = require('fs');
const path = require('path');
const { chromium } = require('playwright-core');

const [folder, recording, ...wanted] = process.argv.slice(2);
const PATIENCE = 240000;

function check(good, what) {
  if (!good) throw new Error(what);
}

/** Opens the page, with a new chat. */
async function open(page) {
  await page.goto('http://127.0.0.1:3000/');
  await page.waitForSelector('#chat-input', { timeout: PATIENCE });
}

/** Sends a message, and waits until its answer is complete: then there are buttons below it. */
async function ask(page, text) {
  const answers = page.locator('.chat-assistant');
  const before = await answers.count();
  await page.locator('#chat-input').click();
  await page.keyboard.type(text);
  await page.keyboard.press('Enter');
  await answers.nth(before).waitFor({ timeout: PATIENCE });
  await page.locator('button[aria-label="Regenerate"]').nth(before).waitFor({ timeout: PATIENCE });
  await page.waitForTimeout(1000);
  const shown = (await answers.last().innerText()).trim();
  const errors = await page.locator('[data-sonner-toast][data-type="error"]').allInnerTexts();
  check(shown && !errors.length, `the answer is an error: ${errors.join(' ')} ${shown}`);
  return shown;
}

const parts = {
  async chat(page) {
    const first = await ask(page, 'Hello, who are you?');
    return `${first} | ${await ask(page, 'And again.')}`;
  },

  async picture(page) {
    await open(page); // a new chat: small models know nothing to say about a picture after other talk
    const canvas = await page.evaluate(() => {
      const made = Object.assign(document.createElement('canvas'), { width: 192, height: 192 });
      const pen = made.getContext('2d');
      pen.fillStyle = 'white';
      pen.fillRect(0, 0, 192, 192);
      pen.fillStyle = 'crimson';
      pen.fillRect(40, 60, 100, 100);
      return made.toDataURL('image/png').split(',')[1];
    });
    const buffer = Buffer.from(canvas, 'base64');
    await page.locator('input[type=file]').first().setInputFiles({ name: 'red.png', mimeType: 'image/png', buffer });
    await page.waitForTimeout(2000);
    return ask(page, 'What color is the square?');
  },

  async dictation(page) {
    const input = page.locator('#chat-input');
    await page.locator('#voice-input-button').click();
    await page.waitForTimeout(4500);
    await page.locator('#confirm-recording-button').click();
    await page.waitForFunction(() => document.querySelector('#chat-input').innerText.trim(), null, { timeout: PATIENCE });
    const words = (await input.innerText()).trim();
    await input.click();
    await page.keyboard.press('Control+A');
    await page.keyboard.press('Delete');
    return words;
  },

  async aloud(page) {
    const spoken = page.waitForResponse((answer) => answer.url().includes('/audio/speech'), { timeout: PATIENCE });
    await page.locator('button[aria-label="Read Aloud"]').last().click();
    const answer = await spoken;
    check(answer.status() === 200, `the status is ${answer.status()}`);
    return answer.headers()['content-type'];
  },

  async call(page) {
    const events = [];
    page.on('websocket', (socket) => {
      if (!socket.url().includes('realtime')) return;
      socket.on('framereceived', (frame) => {
        const { type, message, transcript } = JSON.parse(frame.payload);
        if (!/delta|pong/.test(type)) events.push([type, message || transcript || ''].join(' ').trim());
      });
    });
    await page.locator('button[aria-label="Voice mode"]').click();
    await page.waitForTimeout(45000);
    check(events.length, 'nothing came');
    check(!events.some((event) => event.startsWith('error')), events.join('; '));
    return [...new Set(events)].join('; ');
  },
};

(async () => {
  const microphone = ['ui', 'device'].map((kind) => `--use-fake-${kind}-for-media-stream`);
  microphone.push(`--use-file-for-fake-audio-capture=${path.resolve(recording)}`);
  const quiet = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'];
  const args = [...quiet, '--autoplay-policy=no-user-gesture-required', ...microphone];
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args });
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, permissions: ['microphone'] });
  await open(page);
  const news = page.getByText("Okay, Let's Go!"); // shown once
  await news.waitFor({ timeout: 5000 }).then(() => news.click(), () => {});
  fs.mkdirSync(folder, { recursive: true });
  for (const name of wanted.length ? wanted : Object.keys(parts)) {
    try {
      console.log(`${name}: ${await parts[name](page)}`);
    } catch (error) {
      process.exitCode = 1;
      console.log(`${name}: WRONG, ${error.message.split('\n')[0]}`);
    }
    await page.screenshot({ path: path.join(folder, `${name}.png`) });
  }
  await browser.close();
})();
