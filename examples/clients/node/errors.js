// Errors of shoal: a gRPC status with a google.rpc.ErrorInfo in its details.
import { fileURLToPath } from 'node:url';
import { status } from '@grpc/grpc-js';
import protobuf from 'protobufjs';

const file = fileURLToPath(new URL('google_rpc.proto', import.meta.url));
const types = new protobuf.Root().loadSync(file, { keepCase: true });
const Status = types.lookupType('google.rpc.Status');
const ErrorInfo = types.lookupType('google.rpc.ErrorInfo');
const ERROR_INFO_URL = 'type.googleapis.com/google.rpc.ErrorInfo';

/** What a call failed with: `code` (a gRPC name), `reason` (stable, for programs), `metadata` and `hint` (for people). */
export class ShoalError extends Error {
  constructor(code, message, reason, metadata) {
    super(message);
    this.name = 'ShoalError';
    this.code = code;
    this.reason = reason;
    this.metadata = metadata;
  }

  get hint() {
    return this.metadata.hint;
  }

  /** The error that a failed gRPC call stands for; anything else comes back as it is. */
  static from(error) {
    if (error instanceof ShoalError || typeof error?.code !== 'number' || !error.metadata) return error;
    const [packed] = error.metadata.get('grpc-status-details-bin');
    let reason = '';
    let metadata = {};
    if (packed) {
      for (const detail of Status.decode(packed).details) {
        if (detail.type_url !== ERROR_INFO_URL) continue;
        const info = ErrorInfo.decode(detail.value);
        if (info.domain === 'shoal') ({ reason, metadata } = info);
      }
    }
    return new ShoalError(status[error.code] ?? String(error.code), error.details, reason, metadata);
  }
}
