// A client of one shoal host: a thin layer over what @grpc/proto-loader makes of proto/shoal/v1.
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { ShoalError } from './errors.js';

const PROTOS = process.env.SHOAL_PROTOS ?? fileURLToPath(new URL('../../../proto', import.meta.url));
const RETRIES = 5;

const definition = loadSync(['shoal/v1/container.proto', 'shoal/v1/image.proto', 'shoal/v1/system.proto'], {
  includeDirs: [PROTOS],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { shoal } = grpc.loadPackageDefinition(definition);

export class Host {
  /** `address` is host:port; `ca`, `cert` and `key` are paths of PEM files; `serverName` if the certificate has another. */
  constructor({ address, ca, cert, key, serverName }) {
    const credentials = grpc.credentials.createSsl(readFileSync(ca), readFileSync(key), readFileSync(cert));
    const options = {
      'grpc.keepalive_time_ms': 20_000,
      'grpc.keepalive_timeout_ms': 5_000,
      ...(serverName ? { 'grpc.ssl_target_name_override': serverName, 'grpc.default_authority': serverName } : {}),
    };
    this.containers = new shoal.v1.ContainerService(address, credentials, options);
    this.images = new shoal.v1.ImageService(address, credentials, options);
    this.system = new shoal.v1.SystemService(address, credentials, options);
  }

  close() {
    for (const client of [this.containers, this.images, this.system]) client.close();
  }

  version() {
    return call(this.system, 'Version', {});
  }

  /** All containers, newest first. */
  async list({ all = false } = {}) {
    const containers = [];
    for await (const { container } of stream(this.containers, 'List', { all })) containers.push(container);
    return containers;
  }

  /** Create and start a container; `spec` is a ContainerSpec. A lost link is no danger: the id makes a retry safe. */
  async run(spec, { pullPolicy = 'PULL_POLICY_MISSING' } = {}) {
    const request = { request_id: randomUUID(), spec, pull_policy: pullPolicy };
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await call(this.containers, 'Run', request);
      } catch (error) {
        if (error.code !== 'UNAVAILABLE' || error.reason || attempt > RETRIES) throw error;
        await pause(attempt);
      }
    }
  }

  /** The output of a container as { time, stream, data }; with `follow` until it ends. A lost link resumes at the cursor. */
  async *logs(name, { follow = false } = {}) {
    let cursor = '';
    for (let attempt = 1; ; attempt += 1) {
      try {
        for await (const batch of stream(this.containers, 'Logs', { name, follow, cursor })) {
          yield* batch.records.map(({ time, stream: from, data }) => ({ time, stream: from, data }));
          cursor = batch.cursor;
          attempt = 0;
        }
        return;
      } catch (error) {
        if (error.code !== 'UNAVAILABLE' || error.reason || attempt > RETRIES) throw error;
        await pause(attempt);
      }
    }
  }

  /** Wait until it does not run: { exit_code, oom_killed, error }. */
  wait(name) {
    return call(this.containers, 'Wait', { name, condition: 'CONDITION_NOT_RUNNING' });
  }

  stop(name) {
    return call(this.containers, 'Stop', { name, request_id: randomUUID() });
  }

  remove(name, { force = false } = {}) {
    return call(this.containers, 'Remove', { name, force, volumes: true, request_id: randomUUID() });
  }
}

function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, (error, response) => (error ? reject(ShoalError.from(error)) : resolve(response)));
  });
}

async function* stream(client, method, request) {
  const responses = client[method](request);
  try {
    yield* responses;
  } catch (error) {
    throw ShoalError.from(error);
  } finally {
    responses.cancel();
  }
}

function pause(attempt) {
  return new Promise((resolve) => setTimeout(resolve, 100 * 2 ** attempt));
}
