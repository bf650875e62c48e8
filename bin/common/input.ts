/** Reading what is piped in. */
import { fstatSync } from 'node:fs'

/** Is something piped or redirected into stdin? (A terminal or /dev/null is not.) */
export function stdinIsPiped(): boolean {
  if (process.stdin.isTTY) return false
  try {
    const stat = fstatSync(0)
    return stat.isFIFO() || stat.isFile() || stat.isSocket()
  } catch {
    return false // closed
  }
}

/** All of stdin as text. After two seconds without an end it says what it waits for. */
export async function readStdin(): Promise<string> {
  const hint = setTimeout(() => {
    process.stderr.write('qwen3: waiting for the end of stdin (for none: < /dev/null, or --no-stdin)\n')
  }, 2000)
  try {
    const chunks: Buffer[] = []
    for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
    return Buffer.concat(chunks).toString('utf8')
  } finally {
    clearTimeout(hint)
  }
}
