/** Exit codes of the command and the one place that turns an error into a message and a code. */
import { CommanderError } from 'commander'
import { Qwen3Error } from '../../lib/index'

/** Documented in `qwen3 --help` and README.md. */
export const exitCode = {
  ok: 0,
  /** The work failed: model not found, damaged file, out of memory, ... */
  failure: 1,
  /** The command line is wrong: unknown option, value out of range, nothing to do. */
  usage: 2,
  /** Ctrl-C, as shells count it: 128 + SIGINT. */
  interrupted: 130,
  /** SIGTERM. */
  terminated: 143,
} as const

/** A command line that cannot be carried out; the message says what to write instead. */
export class UsageError extends Error {}

/** Prints what went wrong to stderr (commander has printed its own already) and returns the exit code. */
export function explain(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitCode.ok : exitCode.usage
  if (error instanceof UsageError) return say(error.message, exitCode.usage)
  if (error instanceof Qwen3Error) {
    if (error.code === 'ABORTED') return exitCode.interrupted
    return say(
      `${error.message} [${error.code}]`,
      error.code === 'INVALID_ARGUMENT' ? exitCode.usage : exitCode.failure,
    )
  }
  if (error instanceof Error && 'code' in error && typeof error.code === 'string')
    return say(error.message, exitCode.failure) // a file that cannot be read or written
  return say(error instanceof Error ? (error.stack ?? error.message) : String(error), exitCode.failure)
}

function say(message: string, code: number): number {
  process.stderr.write(`qwen3: ${message}\n`)
  return code
}
