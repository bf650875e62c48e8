/**
 * Every failure that the library reports is a {@link Qwen3Error}; its code is stable and documented in docs/errors.md.
 */

/** The registry of codes: what each one means, in one sentence. A test proves that docs and types agree with it. */
export const errorCodes = {
  MODEL_NOT_FOUND: 'No model of that name or path; the message lists what was tried and near names.',
  BAD_MODEL_FILE: 'A model file is damaged, truncated or contradicts itself; `subject` is the path or tensor.',
  UNSUPPORTED: 'The file or option is valid but this version cannot honour it; `subject` names it.',
  INVALID_ARGUMENT: 'An option or argument has the wrong type or range; the message says expected and received.',
  OUT_OF_MEMORY: 'The model or its cache does not fit in memory; nothing was kept.',
  CONTEXT_OVERFLOW: 'The prompt does not fit in the context; the message names both numbers.',
  ABORTED: 'The call was cancelled by its signal, by leaving the loop, or because the model was closed.',
  BUSY: 'The engine refuses more work now; try again later.',
  CLOSED: 'The model was closed before the call.',
  STREAM_CONSUMED: 'The stream has an iterator already; a stream can be iterated once.',
  ADDON_NOT_FOUND: 'No native addon for this platform; the message says how to build it.',
  INTERNAL: 'A defect of this library; please report it with the message.',
} as const

export type Qwen3ErrorCode = keyof typeof errorCodes

/** The error class of the library. `code` is stable; `message` says what to do; `subject` is the path, field or option. */
export class Qwen3Error extends Error {
  readonly code: Qwen3ErrorCode
  // declare: without a subject there is no such property.
  declare readonly subject?: string

  constructor(code: Qwen3ErrorCode, message: string, options: { subject?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'Qwen3Error'
    this.code = code
    if (options.subject) this.subject = options.subject
  }
}

/**
 * What a cancelled call rejects with: code `ABORTED`, `cause` the signal's reason, and the `name` that web APIs use
 * (`TimeoutError` when the signal timed out, else `AbortError`), so that existing handlers recognise it.
 */
export function abortedError(reason: unknown, message = 'The call was aborted.'): Qwen3Error {
  const error = new Qwen3Error('ABORTED', message, { cause: reason })
  const timedOut =
    typeof reason === 'object' && reason !== null && (reason as { name?: unknown }).name === 'TimeoutError'
  error.name = timedOut ? 'TimeoutError' : 'AbortError'
  return error
}

/** Throws {@link abortedError} when the signal is aborted already. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortedError(signal.reason)
}

/** How a value is shown in "expected / received" messages: short, on one line, and never the caller's data in full. */
export function received(value: unknown): string {
  if (typeof value === 'string')
    return value.length > 60 ? `a string of ${value.length} characters` : JSON.stringify(value)
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'symbol') return 'a symbol'
  if (Array.isArray(value)) return `an array of ${value.length} items`
  if (typeof value === 'object' && value !== null) return 'an object'
  return String(value)
}
