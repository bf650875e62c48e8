/** Warnings of the library: each once in a process, as a `warning` event of the name `Qwen3Warning`. */

const warned = new Set<string>()

export function warnOnce(message: string): void {
  if (warned.has(message)) return
  warned.add(message)
  process.emitWarning(message, { type: 'Qwen3Warning' })
}
