/** Ctrl-C and SIGTERM: the first asks the work to stop, the second stops waiting for it. */
import { exitCode } from './exit'

/** Runs `work` with a signal that Ctrl-C and SIGTERM abort; the exit code then says which one it was. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const stop = (name: 'SIGINT' | 'SIGTERM') => {
    const code = name === 'SIGINT' ? exitCode.interrupted : exitCode.terminated
    if (controller.signal.aborted) process.exit(code)
    process.exitCode = code
    controller.abort(new Error(name === 'SIGINT' ? 'interrupted' : 'terminated'))
  }
  process.on('SIGINT', stop)
  process.on('SIGTERM', stop)
  try {
    return await work(controller.signal)
  } finally {
    process.off('SIGINT', stop)
    process.off('SIGTERM', stop)
  }
}
