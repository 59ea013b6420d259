#!/usr/bin/env node
// Usage: main.js list | version | run IMAGE [COMMAND...] | logs NAME
// The host comes from SHOAL_ADDRESS, SHOAL_CA, SHOAL_CERT, SHOAL_KEY and, where the certificate has another name,
// SHOAL_SERVER_NAME. `run` starts a container, follows its output, waits for its end, removes it and exits with its code.
import { ShoalError } from './errors.js';
import { Host } from './shoal.js';

const { SHOAL_ADDRESS, SHOAL_CA, SHOAL_CERT, SHOAL_KEY, SHOAL_SERVER_NAME } = process.env;

async function list(host) {
  for (const { id, name, image, state } of await host.list({ all: true })) {
    console.log([id.slice(0, 12), name, image, state.replace('CONTAINER_STATE_', '').toLowerCase()].join('\t'));
  }
}

async function version(host) {
  const { version: number, runtime } = await host.version();
  console.log(`shoald ${number}, ${runtime}`);
}

async function run(host, image, ...command) {
  const { container, warnings } = await host.run({ image, command });
  for (const warning of warnings) console.error(`warning: ${warning}`);
  try {
    await logs(host, container.id, true);
    const { exit_code: code } = await host.wait(container.id);
    return code;
  } finally {
    await host.remove(container.id, { force: true });
  }
}

async function logs(host, name, follow = false) {
  for await (const { stream, data } of host.logs(name, { follow })) {
    (stream === 'STREAM_STDERR' ? process.stderr : process.stdout).write(data);
  }
}

const commands = { list, version, run, logs: (host, name) => logs(host, name, true) };
const [verb, ...rest] = process.argv.slice(2);
const needed = { list: 0, version: 0, run: 1, logs: 1 }[verb];
if (needed === undefined || rest.length < needed || !SHOAL_ADDRESS || !SHOAL_CA || !SHOAL_CERT || !SHOAL_KEY) {
  console.error('usage: main.js list | version | run IMAGE [COMMAND...] | logs NAME');
  console.error('set SHOAL_ADDRESS (host:port) and SHOAL_CA, SHOAL_CERT, SHOAL_KEY (PEM files)');
  process.exit(2);
}
const host = new Host({
  address: SHOAL_ADDRESS, ca: SHOAL_CA, cert: SHOAL_CERT, key: SHOAL_KEY, serverName: SHOAL_SERVER_NAME,
});
try {
  process.exitCode = (await commands[verb](host, ...rest)) ?? 0;
} catch (error) {
  if (!(error instanceof ShoalError)) throw error;
  console.error(`${error.code}${error.reason ? ` (${error.reason})` : ''}: ${error.message}`);
  if (error.hint) console.error(`hint: ${error.hint}`);
  process.exitCode = 125;
} finally {
  host.close();
}
